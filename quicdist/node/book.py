"""The address book: where a node is, and the carrier that goes there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from quicdist.carriers.base import Connection
from quicdist.node.carrier import Carrier, Place
from quicdist.node.errors import NoConnection
from quicdist.node.lookup import Lookup, NotFound
from quicdist.node.names import NodeName


class AddressBook:
    """The carriers of one node and the places where it asks, each in the order they are tried."""

    def __init__(self, carriers: Sequence[Carrier], lookups: Sequence[Lookup]) -> None:
        self.carriers = tuple(carriers)
        self._lookups = tuple(lookups)

    async def dial(self, node: str, timeout: float) -> Connection:
        """A connection to the node.

        Raises OSError, and NoConnection, which says where it was looked for, and what came.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        carrier, place = await self._find(node, timeout)
        return await carrier.dial(node, place, max(deadline - loop.time(), 0.001))

    async def _find(self, node: str, timeout: float) -> tuple[Carrier, Place]:
        name = NodeName.parse(node)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        answers: list[str] = []
        for asked, lookup in enumerate(self._lookups):
            left = max(deadline - loop.time(), 0.001)
            try:
                # One that is silent leaves the others their turn.
                place = await lookup.find(name, left / (len(self._lookups) - asked))
            except NotFound as error:
                answers.append(str(error))
                continue
            for carrier in self.carriers:
                if carrier.transport is place.transport:
                    return carrier, place
            answers.append(f"it is at {place}, where no carrier here reaches")
        raise NoConnection(node, "; ".join(answers) or "there is nowhere to look it up")
