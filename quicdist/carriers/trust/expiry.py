"""Daily log lines before the certificate of a node expires."""

from __future__ import annotations

import asyncio
import datetime
import logging
from typing import Final

from quicdist.carriers.trust.credentials import Credentials

_log = logging.getLogger("quicdist.trust")

DAY: Final = 86_400.0
"""Seconds between two checks."""

_WARN_WITHIN = datetime.timedelta(days=30)
_URGENT_WITHIN = datetime.timedelta(days=7)
_LAST = datetime.timedelta(days=1)


async def watch_expiry(credentials: Credentials, node: str) -> None:
    """Checks the certificate immediately and then once a day, until cancelled.

    Each check uses the certificate in use at that time.
    """
    while True:
        say_expiry(credentials, node, datetime.datetime.now(datetime.UTC))
        await asyncio.sleep(DAY)


def say_expiry(credentials: Credentials, node: str, now: datetime.datetime) -> None:
    """Logs a warning in the last 30 days, and an error in the last 7 days and after expiry."""
    expires = credentials.expires
    if expires is None or expires - now > _WARN_WITHIN:
        return
    left = expires - now
    level = logging.ERROR if left <= _URGENT_WITHIN else logging.WARNING
    extra = {
        "event": "certificate_expires",
        "node": node,
        "seconds": max(0, round(left.total_seconds())),
    }
    text = "the certificate of this node expires on %s, %s: replace it (`quicdist cert issue`)"
    _log.log(level, text, f"{expires:%Y-%m-%d %H:%M} UTC", _how_soon(left), extra=extra)


def _how_soon(left: datetime.timedelta) -> str:
    if left <= datetime.timedelta():
        return "it has expired and peers reject it"
    return "within a day" if left <= _LAST else f"in {left.days} days"
