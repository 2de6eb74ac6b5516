"""Reads rows from a stream, aggregates them, and returns a table."""

import pyarrow

from quicdist import export, open_stream
from quicdist.arrays import to_arrow
from quicdist.etf import Term


@export
async def totals(rows: Term) -> Term:
    """Adds the amounts of each customer. Returns an Arrow IPC stream."""
    amounts: dict[bytes, float] = {}
    async for customer, amount in open_stream(rows):
        amounts[customer] = amounts.get(customer, 0.0) + amount
    names = sorted(amounts)
    table = pyarrow.table(
        {
            "customer": [name.decode() for name in names],
            "total": [amounts[name] for name in names],
        }
    )
    return to_arrow(table)
