"""An HTTP server for probes and metrics: `/healthz`, `/readyz` and `/metrics` on one port.

    async with Node("4433@10.0.0.7") as node, serve_health(node, port=9464):
        ...

The server runs in the event loop of the node, so that `/healthz` proves that the loop responds.

- `/healthz` answers 200 while the process and its event loop respond.
- `/readyz` answers 200 while the node or gateway takes work, else 503 with the reason: it does not
  run, the node drains, or the BEAM node of the gateway is not registered.
- `/metrics` has the metrics for Prometheus, or answers 501 without prometheus-client.

A request costs at most `MAX_REQUEST` bytes and `MAX_SECONDS`. There are at most `MAX_CONNECTIONS`
connections; a further one closes the oldest, so that slow clients do not keep probes out. There is
no authentication and no TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus

from quicdist.errors import NotRunning
from quicdist.extras import MissingExtra
from quicdist.gateway.info import GatewayStatistics
from quicdist.metrics.prometheus import Exposition
from quicdist.metrics.reading import Source
from quicdist.node.info import NodeStatistics
from quicdist.setting_types import Port, check_type

MAX_REQUEST = 8192
"""Bytes of a request line and its header fields."""

MAX_SECONDS = 5.0
"""Seconds for a request and its answer."""

MAX_CONNECTIONS = 32
"""Connections at a time."""

_TEXT = "text/plain; charset=utf-8"


def unready_reason(source: Source) -> str:
    """Returns why a node or gateway takes no work, or an empty string if it does."""
    try:
        stats = source.stats()
    except NotRunning:
        return "not running"
    if isinstance(stats, NodeStatistics) and stats.is_draining:
        return "draining"
    if isinstance(stats, GatewayStatistics) and not stats.is_registered:
        return "the BEAM node is not registered"
    return ""


@contextlib.asynccontextmanager
async def serve_health(
    source: Source, *, host: str = "127.0.0.1", port: int = 9464
) -> AsyncIterator[tuple[str, int]]:
    """Serves probes and metrics of a node or gateway of this event loop inside an `async with`.

    Port 0 takes a free port. Returns the bound address. Raises OSError if it cannot be bound.
    """
    service = _Service(source)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    check_type("port=", port, Port)
    listening = socket.create_server((host, port), family=family)
    try:
        server = await asyncio.start_server(service.connected, sock=listening, limit=MAX_REQUEST)
    except BaseException:
        listening.close()
        raise
    try:
        yield listening.getsockname()[:2]
    finally:
        server.close()
        await service.close()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT

    def encode(self, *, with_body: bool) -> bytes:
        """Returns the response (RFC 9112, 4). The connection ends after it."""
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n"
            f"Content-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\n"
            "Cache-Control: no-store\r\n"
            "Connection: close\r\n\r\n"
        )
        return head.encode("ascii") + (self.body if with_body else b"")


def _text(status: HTTPStatus, line: str) -> _Answer:
    return _Answer(status, f"{line}\n".encode())


class _Service:
    """The connections of the server and their answers."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        """The oldest first."""
        self._rendering = asyncio.Lock()
        try:
            self._exposition: Exposition | None = Exposition(source)
            self._missing = ""
        except MissingExtra as error:
            self._exposition = None
            self._missing = str(error)

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Called by the server with each connection."""
        if len(self._connections) >= MAX_CONNECTIONS:
            oldest, its_writer = next(iter(self._connections.items()))
            del self._connections[oldest]
            its_writer.transport.abort()
            oldest.cancel()
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(lambda done: self._connections.pop(done, None))

    async def close(self) -> None:
        """Ends all connections."""
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(MAX_SECONDS):
                writer.write(await self._response(reader))
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client is gone or slow
        finally:
            writer.transport.abort()

    async def _response(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            return _text(too_large, "the request is too large").encode(with_body=True)
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _text(HTTPStatus.BAD_REQUEST, "expected HTTP/1.1").encode(with_body=True)
        if method not in (b"GET", b"HEAD"):
            refused = _text(HTTPStatus.METHOD_NOT_ALLOWED, "expected GET or HEAD")
            return refused.encode(with_body=True)
        answer = await self._answer(target.partition(b"?")[0])
        return answer.encode(with_body=method == b"GET")

    async def _answer(self, path: bytes) -> _Answer:
        match path:
            case b"/healthz":
                return _text(HTTPStatus.OK, "ok")
            case b"/readyz":
                reason = unready_reason(self._source)
                status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
                return _text(status, reason or "ready")
            case b"/metrics":
                return await self._metrics()
        return _text(HTTPStatus.NOT_FOUND, "expected /healthz, /readyz or /metrics")

    async def _metrics(self) -> _Answer:
        if self._exposition is None:
            return _text(HTTPStatus.NOT_IMPLEMENTED, self._missing)
        async with self._rendering:  # one thread, however many clients ask
            body = await asyncio.to_thread(self._exposition.render)
        return _Answer(HTTPStatus.OK, body, self._exposition.content_type)
