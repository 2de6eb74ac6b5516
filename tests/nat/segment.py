"""A network segment with a delay: a learning switch between Ethernet devices.

    python -m tests.nat.segment SECONDS DEVICE...

Each frame leaves `SECONDS` after it arrived. For kernels without netem.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import socket
import sys
import time

_ALL_PROTOCOLS = 3
_PACKET_OUTGOING = 4
_BUFFER = 4 * 1024 * 1024
_BATCH = 64


class Switch:
    """The devices, which addresses were seen where, and the frames on their way."""

    def __init__(self, delay: float, devices: list[str]) -> None:
        self._delay = delay
        self._ports = [_open(device) for device in devices]
        self._places: dict[bytes, socket.socket] = {}
        self._frames: list[tuple[float, int, socket.socket, bytes]] = []
        self._numbers = itertools.count()

    def run(self) -> None:
        """Forwards frames until the process is ended."""
        selector = selectors.DefaultSelector()
        for port in self._ports:
            selector.register(port, selectors.EVENT_READ)
        while True:
            wait = self._frames[0][0] - time.monotonic() if self._frames else None
            for key, _ in selector.select(max(wait, 0) if wait is not None else None):
                assert isinstance(key.fileobj, socket.socket)
                self._read(key.fileobj)
            self._send()

    def _read(self, port: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(_BATCH):
                frame, origin = port.recvfrom(65_536)
                if origin[2] != _PACKET_OUTGOING:
                    self._take(port, frame)

    def _take(self, port: socket.socket, frame: bytes) -> None:
        self._places[frame[6:12]] = port
        place = self._places.get(frame[:6])
        is_group = frame[0] & 1
        targets = self._ports if is_group or place is None else [place]
        due = time.monotonic() + self._delay
        for target in targets:
            if target is not port:
                heapq.heappush(self._frames, (due, next(self._numbers), target, frame))

    def _send(self) -> None:
        while self._frames and self._frames[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(self._frames)
            with contextlib.suppress(OSError):  # a device that is down loses frames
                target.send(frame)


def _open(device: str) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    port.bind((device, 0))
    port.setblocking(False)
    return port


if __name__ == "__main__":
    switch = Switch(float(sys.argv[1]), sys.argv[2:])
    print("ready", flush=True)
    switch.run()
