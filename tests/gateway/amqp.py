"""A minimal AMQP 0-9-1 client that publishes to a queue and gets messages from it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping

_METHOD, _HEADER, _BODY = 1, 2, 3
_END = 0xCE


class Amqp:
    """A connection with one channel to a local broker, as user guest."""

    def __init__(self, port: int, timeout: float) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._expect(10, 10)  # connection.start
        login = _table({}) + _short("PLAIN") + _long(b"\0guest\0guest") + _short("en_US")
        self._call(0, (10, 11), login, (10, 30))  # start-ok, tune
        self._send(0, (10, 31), struct.pack(">HIH", 1, 131072, 0))  # tune-ok
        self._call(0, (10, 40), _short("/") + _short("") + b"\0", (10, 41))  # open
        self._call(1, (20, 10), _short(""), (20, 11))  # channel.open

    def declare(self, queue: str, arguments: Mapping[str, str]) -> None:
        """Declares a durable queue."""
        body = struct.pack(">H", 0) + _short(queue) + b"\x02" + _table(arguments)
        self._call(1, (50, 10), body, (50, 11))

    def confirm(self) -> None:
        """Enables publisher confirms, so that `publish` waits for the broker."""
        self._call(1, (85, 10), b"\0", (85, 11))

    def publish(self, queue: str, body: bytes) -> None:
        """Publishes through the default exchange and waits for the broker's confirmation."""
        self._send(1, (60, 40), struct.pack(">H", 0) + _short("") + _short(queue) + b"\0")
        self._frame(_HEADER, 1, struct.pack(">HHQH", 60, 0, len(body), 0))
        for at in range(0, len(body), 100_000):
            self._frame(_BODY, 1, body[at : at + 100_000])
        self._expect(60, 80)  # ack

    def get(self, queue: str) -> bytes | None:
        """Gets the next message; None if the queue is empty."""
        self._send(1, (60, 70), struct.pack(">H", 0) + _short(queue) + b"\x01")
        method = self._expect(60, None)
        if method == 72:  # get-empty
            return None
        _, header = self._read()
        (size,) = struct.unpack_from(">Q", header, 4)
        body = b""
        while len(body) < size:
            body += self._read()[1]
        return body

    def consume(self, queue: str) -> None:
        """Subscribes to the queue; the messages are not read."""
        body = struct.pack(">H", 0) + _short(queue) + _short("") + b"\0" + _table({})
        self._call(1, (60, 20), body, (60, 21))

    def close(self) -> None:
        """Closes the socket without connection.close."""
        self._file.close()
        self._socket.close()

    def _call(
        self, channel: int, method: tuple[int, int], body: bytes, reply: tuple[int, int]
    ) -> None:
        self._send(channel, method, body)
        self._expect(*reply)

    def _send(self, channel: int, method: tuple[int, int], body: bytes) -> None:
        self._frame(_METHOD, channel, struct.pack(">HH", *method) + body)

    def _frame(self, kind: int, channel: int, payload: bytes) -> None:
        head = struct.pack(">BHI", kind, channel, len(payload))
        self._socket.sendall(head + payload + bytes((_END,)))

    def _expect(self, family: int, method: int | None) -> int:
        kind, payload = self._read()
        got: tuple[int, int] = struct.unpack_from(">HH", payload)
        right = kind == _METHOD and got[0] == family and method in (None, got[1])
        assert right, f"{kind} {got} {payload[4:200]!r} instead of {family}, {method}"
        return got[1]

    def _read(self) -> tuple[int, bytes]:
        head = self._file.read(7)
        assert len(head) == 7, "the broker closed the connection"
        kind, _, size = struct.unpack(">BHI", head)
        payload = self._file.read(size + 1)
        assert payload[-1] == _END
        return kind, payload[:-1]


def _short(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()


def _long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _table(values: Mapping[str, str]) -> bytes:
    return _long(b"".join(_short(k) + b"S" + _long(v.encode()) for k, v in values.items()))
