"""EPMD client: look-ups, and the registration of a node."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from quicdist.carriers.epmd.codec import (
    EpmdError,
    EpmdRefused,
    ListNames,
    LookUp,
    NodeInfo,
    Register,
    Request,
    decode_found,
    decode_names,
    decode_registered,
    encode_request,
)
from quicdist.carriers.forking import descriptors_of, keep_from_children
from quicdist.carriers.host_lookup import look_up_host

DEFAULT_PORT = 4369
_MAX_ANSWER = 1024 * 1024
"""Maximum size of a response in bytes. NAMES_RESP lists every node of a host."""
_RECONNECT = 2.0
"""Seconds between attempts to register again, as in OTP's erl_epmd."""

_LETTING_GO = 1.0
"""Seconds that EPMD has to notice the end of a registration."""

_log = logging.getLogger("quicdist.epmd")


@dataclass(frozen=True, slots=True)
class EpmdAddress:
    """Host and port of an EPMD."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def default_port() -> int:
    """Returns the EPMD port of this host: ERL_EPMD_PORT if it is valid, else 4369, as in Erlang."""
    text = os.environ.get("ERL_EPMD_PORT", "")
    return int(text) if text.isascii() and text.isdigit() and int(text) <= 65535 else DEFAULT_PORT


def why(error: Exception) -> str:
    """Returns a short reason for a failed EPMD request.

    It prefers the operating system's error text to asyncio's, which repeats the failed call.
    """
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or "no answer in time"


async def look_up(
    name: str, epmd: EpmdAddress | None = None, *, timeout: float = 5.0
) -> NodeInfo | None:
    """Returns the node with this name (the part before the `@`), or None if it is not registered.

    `epmd` defaults to 127.0.0.1:4369. Raises OSError if the connection to EPMD fails, and EpmdError
    if the response is missing or invalid.
    """
    return decode_found(await _ask(LookUp(name), epmd or EpmdAddress(), timeout))


async def names(epmd: EpmdAddress | None = None, *, timeout: float = 5.0) -> list[tuple[str, int]]:
    """Returns (name, port) of every registered node. Raises the same errors as `look_up`."""
    return decode_names(await _ask(ListNames(), epmd or EpmdAddress(), timeout))


Absent: TypeAlias = Callable[[], Awaitable[None]]
"""Called when no EPMD is running, to start one. Raises OSError if that fails."""


class Registration:
    """The registration of a node in an EPMD.

    It lasts until `close`. If EPMD restarts, the node is registered again.
    """

    def __init__(self, node: NodeInfo, epmd: EpmdAddress, absent: Absent | None) -> None:
        self.node = node
        self.epmd = epmd
        self._absent = absent
        self.creation = 0
        """The creation that EPMD assigned at the first registration."""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        node: NodeInfo,
        epmd: EpmdAddress | None = None,
        *,
        timeout: float = 5.0,
        absent: Absent | None = None,
    ) -> Registration:
        """Registers the node and keeps it registered.

        `absent` is called whenever no EPMD is running, now and after a restart of EPMD. Raises
        EpmdRefused if the name is in use, OSError if the connection to EPMD fails, and EpmdError if
        the response is missing or invalid.
        """
        registration = cls(node, epmd or EpmdAddress(), absent)
        keep_from_children(registration)
        reader = await registration._register(timeout)
        registration._keeper = asyncio.create_task(registration._keep(reader, timeout))
        return registration

    def descriptors(self) -> Sequence[int]:
        """Returns its open file descriptors."""
        return [] if self._writer is None else descriptors_of(self._writer.transport)

    async def close(self) -> None:
        """Ends the registration, and waits until EPMD has noticed so that the name is free."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._writer is not None:
            if self._reader is not None:
                await _let_go(self._reader, self._writer)
            await close_writer(self._writer)

    async def _register(self, timeout: float) -> asyncio.StreamReader:
        try:
            reader, writer = await _connect(self.epmd, timeout)
        except ConnectionRefusedError:
            if self._absent is None:
                raise
            await self._absent()
            reader, writer = await _connect(self.epmd, timeout)
        try:
            writer.write(encode_request(Register(self.node)))
            answer, data = None, b""
            while answer is None:
                piece = await asyncio.wait_for(reader.read(64), timeout)
                data += piece
                answer = decode_registered(data)
                if not piece and answer is None:
                    raise EpmdError(f"EPMD at {self.epmd} closed the connection without a response")
            accepted, creation = answer
            if not accepted:
                raise EpmdRefused(f"EPMD at {self.epmd} already has a node {self.node.name}")
        except BaseException as error:
            writer.close()
            raise _no_answer(self.epmd, error) from None
        self._reader, self._writer = reader, writer
        self.creation = self.creation or creation
        return reader

    async def _keep(self, reader: asyncio.StreamReader, timeout: float) -> None:
        while True:
            with contextlib.suppress(OSError):
                while await reader.read(1024):
                    pass
            text = "connection to EPMD at %s lost; registering again when EPMD is available"
            _log.warning(text, self.epmd, extra={"event": "epmd_gone", "address": str(self.epmd)})
            writer, self._writer = self._writer, None
            if writer is not None:
                await close_writer(writer)
            while self._writer is None:
                await asyncio.sleep(_RECONNECT)
                with contextlib.suppress(OSError, EpmdError):
                    reader = await self._register(timeout)


async def _connect(
    epmd: EpmdAddress, timeout: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.wait_for(_connect_to_any(epmd, timeout), timeout)
    except TimeoutError:
        raise TimeoutError(f"no EPMD answers at {epmd}") from None


async def _connect_to_any(
    epmd: EpmdAddress, timeout: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Tries the addresses of the host in turn. Raises the first failure."""
    failures: list[OSError] = []
    for *_, address in await look_up_host(
        epmd.host, epmd.port, kind=socket.SOCK_STREAM, timeout=timeout
    ):
        try:
            return await asyncio.open_connection(address[0], epmd.port)
        except OSError as error:
            failures.append(error)
    raise failures[0]


async def _ask(request: Request, epmd: EpmdAddress, timeout: float) -> bytes:
    """Returns the whole response; EPMD closes the connection after it."""
    reader, writer = await _connect(epmd, timeout)
    try:
        writer.write(encode_request(request))
        return await asyncio.wait_for(_read_all(reader), timeout)
    except (TimeoutError, OSError) as error:
        raise _no_answer(epmd, error) from None
    finally:
        await close_writer(writer)


def _no_answer(epmd: EpmdAddress, error: BaseException) -> BaseException:
    """Maps an error after the connect to EpmdError: the peer is not an EPMD."""
    if isinstance(error, TimeoutError):
        return EpmdError(f"EPMD at {epmd} does not answer")
    if isinstance(error, OSError):
        return EpmdError(f"EPMD at {epmd} does not answer: {error.strerror or error}")
    return error


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    data = bytearray()
    while piece := await reader.read(65536):
        data += piece
        if len(data) > _MAX_ANSWER:
            raise EpmdError(f"EPMD response larger than {_MAX_ANSWER} bytes")
    return bytes(data)


async def _let_go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ends the sending direction and waits until EPMD closes the connection in response.

    EPMD removes the name before that. At the end of the connection alone it would do so later, and
    a node that starts at once would find its name in use.
    """
    with contextlib.suppress(OSError, TimeoutError):
        writer.write_eof()
        async with asyncio.timeout(_LETTING_GO):
            while await reader.read(1024):
                pass


async def close_writer(writer: asyncio.StreamWriter) -> None:
    """Closes the writer and waits for the close; ignores connection errors."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
