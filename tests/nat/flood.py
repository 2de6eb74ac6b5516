"""Floods of a relay, for tests: from many forged addresses, and from a node with a valid key.

    python -m tests.nat.flood spoofed PORT...     (each in a namespace of the lab)
    python -m tests.nat.flood keyed PORT...

PORT are ports of the relay. It prints a line when it begins, and runs until it is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence

from quicdist.carriers.base import Connection, ConnectionHandler
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.relay.client import RelayAddress, RelayClient
from quicdist.carriers.relay.frames import data_head
from quicdist.carriers.relay.slots import Slot
from quicdist.carriers.trust import Credentials, Identity, Trust
from tests.nat.lab import CORE

RATE = 600
"""Datagrams per second, at most."""

_BURST = 20
_PATIENCE = 60.0
_SOURCES = int.from_bytes(socket.inet_aton("198.18.0.0"), "big")
"""The first of 131,072 addresses for benchmarks (RFC 2544), which are forged."""


def quic() -> bytes:
    """A datagram that may be of a connection, one of 20 times of a new one."""
    if random.random() < 0.05:
        return initial()
    return b"\x40" + os.urandom(random.choice([40, 1200]))


def initial() -> bytes:
    """A datagram that looks like the first one of a QUIC connection, and cannot be decrypted."""
    head = b"\xc3" + struct.pack(">I", 1) + b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8)
    return (head + b"\x00\x44\x9e" + os.urandom(1200))[:1200]


def paced() -> Iterator[None]:
    """Yields up to `RATE` times per second, for ever."""
    begun = time.monotonic()
    for sent in itertools.count():
        if sent % _BURST == 0:
            time.sleep(max(begun + sent / RATE - time.monotonic(), 0))
        yield


def spoofed(ports: Sequence[int]) -> None:
    """Sends to ports of the relay, each time from another address."""
    relay = socket.inet_aton(CORE)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        print(json.dumps({"event": "floods"}), flush=True)
        for number, (port, _) in enumerate(zip(itertools.cycle(ports), paced(), strict=False)):
            data = quic()
            source = (_SOURCES + number % 131_072).to_bytes(4, "big")
            udp = struct.pack(">HHHH", 1024 + number % 60_000, port, 8 + len(data), 0)
            size = 20 + len(udp) + len(data)
            ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, 17, 0, source, relay)
            sock.sendto(ip + udp + data, (CORE, 0))


async def keyed(ports: Sequence[int]) -> None:
    """Gets a port of the relay, and sends frames of all kinds from there."""
    credentials = Credentials(Identity.ephemeral([CORE]), Trust.first_use())
    client = RelayClient(RelayAddress(CORE, 4433, 0), credentials, slot=Slot(0), wanted=0)
    endpoint = await Endpoint.open(
        "0.0.0.0", 0, settings=QuicSettings(credentials), accept=_nobody, bind=client.bind
    )
    await client.register(endpoint, _PATIENCE)
    assert client.paths.relay is not None
    print(json.dumps({"event": "floods"}), flush=True)
    for number, _ in enumerate(paced()):
        to = random.choice([(CORE, random.choice(ports)), ("198.18.0.1", 9)])
        frame = data_head(to) + random.choice([quic(), b"\x40" * 1452, b"\x00", b""])
        endpoint.send([(frame, len(frame), (client.paths.relay, None))])
        if number % _BURST == 0:
            await asyncio.sleep(0)  # the keep-alive of the control connection


def _nobody(connection: Connection) -> ConnectionHandler:
    raise ConnectionRefusedError("nobody is here")


if __name__ == "__main__":
    numbers = [int(one) for one in sys.argv[2:]]
    if sys.argv[1] == "spoofed":
        spoofed(numbers)
    else:
        asyncio.run(keyed(numbers))
