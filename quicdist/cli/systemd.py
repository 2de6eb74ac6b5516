"""Tells systemd the state of a long-running command, as sd_notify(3) describes.

systemd sets `NOTIFY_SOCKET` for units with `Type=notify`, and `WATCHDOG_USEC` for those with
`WatchdogSec=`. Without them nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping

READY = "READY=1"
STOPPING = "STOPPING=1"
_ALIVE = "WATCHDOG=1"


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Sends a state to the service manager. Returns whether it was sent.

    A failure is ignored: the service manager ends a service that it does not hear from.
    """
    path = environment.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as unix,
    ):
        unix.setblocking(False)
        unix.sendto(state.encode(), address)
        return True
    return False


def watchdog_interval(environment: Mapping[str, str] = os.environ) -> float | None:
    """Returns the seconds between two signs of life, half of the time that systemd waits.

    None if the unit has no watchdog, or if it watches another process (`WATCHDOG_PID`).
    """
    microseconds = environment.get("WATCHDOG_USEC", "")
    watched = environment.get("WATCHDOG_PID", "") or str(os.getpid())
    if not microseconds.isdecimal() or not int(microseconds) or watched != str(os.getpid()):
        return None
    return int(microseconds) / 2e6


@contextlib.asynccontextmanager
async def ready() -> AsyncIterator[None]:
    """Reports READY at the start of the block and STOPPING at its end.

    In between a task of the event loop sends signs of life, so that systemd restarts a process
    whose event loop does not respond.
    """
    interval = watchdog_interval()
    alive = None if interval is None else asyncio.ensure_future(_stay_alive(interval))
    notify(READY)
    try:
        yield
    finally:
        notify(STOPPING)
        if alive is not None:
            alive.cancel()


async def _stay_alive(interval: float) -> None:
    while True:
        notify(_ALIVE)
        await asyncio.sleep(interval)
