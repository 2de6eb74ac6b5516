"""Look-up of host names, within a time.

`loop.getaddrinfo` cannot be interrupted, and `asyncio.run` waits for its thread at the end: a name
server that does not answer would hold up a command for half a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias

Found: TypeAlias = Sequence[
    tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
]
"""The result of `socket.getaddrinfo`."""


async def look_up_host(
    host: str, port: int, *, kind: socket.SocketKind, timeout: float, family: int = 0
) -> Found:
    """Returns the addresses of a host, as `socket.getaddrinfo`.

    Raises socket.gaierror if the host is unknown or the look-up takes more than `timeout` seconds.
    """
    if _is_address(host):
        return socket.getaddrinfo(host, port, family, kind)
    answer: Future[Found] = Future()
    answer.set_running_or_notify_cancel()  # so that an answer after the timeout is ignored

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, family, kind)
        except (OSError, UnicodeError) as error:
            answer.set_exception(error)
        else:
            answer.set_result(found)

    threading.Thread(target=ask, name=f"look up {host}", daemon=True).start()
    try:
        return await asyncio.wait_for(asyncio.wrap_future(answer), timeout)
    except TimeoutError:
        text = f"no answer to the look-up of the host in {timeout:.3g} s"
        raise socket.gaierror(socket.EAI_AGAIN, text) from None


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host.partition("%")[0])
        return True
    return False
