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
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Found] = loop.create_future()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, family, kind)
        except (OSError, UnicodeError) as error:
            _call(loop, _fail, answer, error)
        else:
            _call(loop, _succeed, answer, found)

    threading.Thread(target=ask, name=f"look up {host}", daemon=True).start()
    try:
        return await asyncio.wait_for(answer, timeout)
    except TimeoutError:
        text = f"no answer to the look-up of the host in {timeout:.3g} s"
        raise socket.gaierror(socket.EAI_AGAIN, text) from None


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host.partition("%")[0])
        return True
    return False


def _call(loop: asyncio.AbstractEventLoop, function: Any, *args: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(function, *args)


def _succeed(answer: asyncio.Future[Found], found: Found) -> None:
    if not answer.done():
        answer.set_result(found)


def _fail(answer: asyncio.Future[Found], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
