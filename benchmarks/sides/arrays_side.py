"""The Python side of benchmarks/arrays.py: gives and takes one array of float64.

    python -m benchmarks.sides.arrays_side quic|tcp BYTES [EPMD_PORT]
    python -m benchmarks.sides.arrays_side call BYTES NODE
    python -m benchmarks.sides.arrays_side port BYTES
    python -m benchmarks.sides.arrays_side json|arrow BYTES
    python -m benchmarks.sides.arrays_side tls BYTES CERTIFICATE KEY

`tls` is `arrow` over HTTPS.

`call` is the other side, in place of the BEAM. Except for it and `port` it prints where it listens.
With COPIES=1 it traces memory, and `copies` is the peak of the memory that Python allocated for one
transfer, in multiples of the payload.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import pickle
import ssl
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.sides.measuring import hear, log_errors_only, say

KIND, SIZE = sys.argv[1], int(sys.argv[2])
ARRAY = np.random.default_rng(1).random(SIZE // 8)
Codec = tuple[Callable[[Any], bytes | memoryview], Callable[[bytes], Any]]


class Copies:
    """The peak of memory since the last reading."""

    def __init__(self) -> None:
        if os.environ.get("COPIES"):
            tracemalloc.start()
        self._base = 0
        self.read()

    def read(self) -> float | None:
        """Returns the peak in multiples of the payload, or None if memory is not traced."""
        if not tracemalloc.is_tracing():
            return None
        now, peak = tracemalloc.get_traced_memory()
        copies = (peak - self._base) / SIZE
        tracemalloc.reset_peak()
        self._base = now
        return round(copies, 2)


COPIES = Copies()


def check(array: Any) -> None:
    """Raises ValueError unless it is the array."""
    if len(array) != len(ARRAY) or array[0] != ARRAY[0] or array[-1] != ARRAY[-1]:
        raise ValueError("another array arrived")


def answer_copies() -> None:
    """Prints the number of copies for each line of standard input."""
    for _ in sys.stdin:
        say({"copies": COPIES.read()})


async def node(epmd_port: int | None) -> None:
    """Serves `arrays:give/0` and `arrays:take/1` as a node."""
    from quicdist import Identity, Node, Quic, Tcp, Trust, export
    from quicdist.arrays import from_tensor, to_tensor
    from quicdist.etf import Atom, Options, Term

    @export(module="arrays")
    def give() -> Term:
        return to_tensor(ARRAY, copy=False)

    @export(module="arrays")
    def take(tensor: Term) -> Term:
        check(from_tensor(tensor))
        return Atom("ok")

    async with Node(
        "0@127.0.0.1" if epmd_port is None else "arrays@127.0.0.1",
        cookie="benchmark",
        carriers=[Quic() if epmd_port is None else Tcp(epmd_port=epmd_port)],
        identity=Identity.ephemeral(["127.0.0.1"]),
        trust=Trust.nothing(),
        terms=Options(binaries="memoryview"),
        exports=[give, take],
    ) as running:
        say({"name": running.name})
        while await hear():
            say({"copies": COPIES.read()})


async def call(peer: str) -> None:
    """Obeys the orders that `arrays_side.erl` obeys, with the node `peer`."""
    from quicdist import Identity, Node, Quic, Trust
    from quicdist.arrays import to_tensor
    from quicdist.etf import Options

    async with Node(
        "0@127.0.0.1",
        cookie="benchmark",
        carriers=[Quic()],
        identity=Identity.ephemeral(["127.0.0.1"]),
        trust=Trust.nothing(),
        terms=Options(binaries="memoryview"),
    ) as running:
        tensor = to_tensor(ARRAY, copy=False)
        await running.call(peer, "arrays", "take", [tensor], timeout=None)
        say({})
        while order := (await hear()).strip():
            began = time.perf_counter()
            given = [tensor] if order == "take" else []
            await running.call(peer, "arrays", order, given, timeout=None)
            say({"seconds": time.perf_counter() - began})


def port() -> None:
    """Answers packets of an Erlang port, which are `give`, `copies`, or `take` and a pickle."""
    read, write = sys.stdin.buffer, sys.stdout.buffer
    while head := read.read(4):
        packet = read.read(struct.unpack(">I", head)[0])
        if packet == b"give":
            answer = pickle.dumps(ARRAY, protocol=5)
        elif packet == b"copies":
            answer = json.dumps(COPIES.read()).encode()
        else:
            check(pickle.loads(memoryview(packet)[4:]))
            answer = b"ok"
        del packet
        write.write(struct.pack(">I", len(answer)))
        write.write(answer)
        write.flush()
        del answer


def as_json() -> Codec:
    """Returns the conversions to and from a list in JSON."""
    return (
        lambda array: json.dumps(array.tolist()).encode(),
        lambda body: np.array(json.loads(body)),
    )


def as_arrow() -> Codec:
    """Returns the conversions to and from a table of one column as an Arrow IPC stream."""
    import pyarrow

    from quicdist.arrays import from_arrow, to_arrow

    return (
        lambda array: to_arrow(pyarrow.table({"x": array})),
        lambda body: from_arrow(body)["x"].to_numpy(),
    )


def serve_http(codec: Codec) -> None:
    """Gives the array at GET and takes it at POST."""
    encode, decode = codec

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(encode(ARRAY))

        def do_POST(self) -> None:
            check(decode(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(b"ok")

        def _answer(self, body: bytes | memoryview) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    import threading

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scheme = "http"
    if KIND == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*sys.argv[3:5])
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say({"name": f"{scheme}://127.0.0.1:{server.server_port}/"})
    answer_copies()


def main() -> None:
    """Runs the side that the command line names."""
    log_errors_only()
    if KIND == "port":
        port()
    elif KIND in ("json", "arrow", "tls"):
        serve_http(as_json() if KIND == "json" else as_arrow())
    elif KIND == "call":
        asyncio.run(call(sys.argv[3]))
    else:
        asyncio.run(node(int(sys.argv[3]) if len(sys.argv) > 3 else None))


main()
