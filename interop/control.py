"""The control connection between the harness and a peer that it has started, over loopback TCP.

A frame is a term with a u32 length prefix: `{Id, Function, Arguments}` to the peer, and
`{Id, ok, Value}` or `{Id, error, Text}` back. The first frame of the peer is `{0, ok, NodeName}`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence

from quicdist import Atom, etf
from quicdist.etf import Term

HOST = "127.0.0.1"


class PeerError(Exception):
    """A call failed on the peer; the text is the peer's."""


class PeerGone(PeerError):
    """The peer ended."""


class Control:
    """The harness's side of the connection; it supports concurrent calls."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Term]] = {}
        self._hello: asyncio.Future[Term] = asyncio.get_running_loop().create_future()
        self._waiting[0] = self._hello
        self._task = asyncio.create_task(self._read())

    async def hello(self) -> Term:
        """Waits until the peer is up and returns its node name. Raises PeerGone."""
        return await self._hello

    async def ask(self, function: str, args: Sequence[Term]) -> Term:
        """Calls a function of the harness code on the peer. Raises PeerError."""
        identifier = next(self._ids)
        answer: asyncio.Future[Term] = asyncio.get_running_loop().create_future()
        if self._task.done():
            raise PeerGone("the peer has ended")
        self._waiting[identifier] = answer
        write_frame(self._writer, (identifier, Atom(function), list(args)))
        try:
            return await answer
        finally:
            self._waiting.pop(identifier, None)

    async def close(self) -> None:
        """Closes the connection, on which the peer exits."""
        self._task.cancel()
        self._writer.close()
        await asyncio.wait([self._task])

    async def _read(self) -> None:
        try:
            while True:
                match await read_frame(self._reader):
                    case (int(identifier), outcome, value):
                        self._settle(identifier, outcome == "ok", value)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(PeerGone("the peer has ended"))
                    answer.exception()

    def _settle(self, identifier: int, is_value: bool, value: Term) -> None:
        answer = self._waiting.get(identifier)
        if answer is None or answer.done():
            return
        if is_value:
            answer.set_result(value)
        else:
            text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
            answer.set_exception(PeerError(text))


Answer = Callable[[str, Sequence[Term]], Awaitable[Term]]


async def serve(port: int, name: str, answer: Answer) -> None:
    """Serves a Python peer's side until the harness disconnects."""
    reader, writer = await asyncio.open_connection(HOST, port)
    write_frame(writer, (0, Atom("ok"), Atom(name)))
    running: set[asyncio.Task[None]] = set()

    async def one(identifier: int, function: str, args: Sequence[Term]) -> None:
        try:
            reply = (identifier, Atom("ok"), await answer(function, args))
        except Exception as error:
            reply = (identifier, Atom("error"), f"{type(error).__name__}: {error}")
        write_frame(writer, reply)

    try:
        while True:
            match await read_frame(reader):
                case (int(identifier), str(function), list(args)):
                    task = asyncio.create_task(one(identifier, function, args))
                    running.add(task)
                    task.add_done_callback(running.discard)
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


async def read_frame(reader: asyncio.StreamReader) -> Term:
    """Reads one frame. Raises IncompleteReadError at the end of the connection."""
    length = int.from_bytes(await reader.readexactly(4), "big")
    return etf.decode(await reader.readexactly(length))


def write_frame(writer: asyncio.StreamWriter, term: Term) -> None:
    """Queues one frame."""
    data = etf.encode(term)
    writer.write(len(data).to_bytes(4, "big") + data)
