"""Ports that are free for a test, and stay so until it binds them."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator

_FIRST = 10_000
_END = 32_768
"""From here on the system gives ports to sockets that bind port 0 (Linux: ip_local_port_range;
macOS and RFC 6335 begin at 49152). A port below it goes to nobody else between the probe and the
test's own bind."""


def worker() -> tuple[int, int]:
    """This process's number among the workers of pytest-xdist, from 0, and how many there are."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return int(name.removeprefix("gw")), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def ports_of_worker() -> range:
    """The ports that this worker alone takes."""
    number, count = worker()
    share = (_END - _FIRST) // max(count, number + 1)
    return range(_FIRST + number * share, _FIRST + (number + 1) * share)


def _candidates() -> Iterator[int]:
    ports = ports_of_worker()
    begin = os.getpid() % len(ports)  # another run on this machine begins elsewhere
    return itertools.cycle((*ports[begin:], *ports[:begin]))


_next_ports = _candidates()


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether nobody has the port at `host`, neither of TCP nor of UDP."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        contextlib.suppress(OSError),
    ):
        for sock in (stream, datagrams):
            sock.bind((host, port))
        return True
    return False


def free_port(*hosts: str) -> int:
    """A port that is free at each of `hosts` (127.0.0.1), of TCP and of UDP, and that no earlier
    call gave for a long time. All have five digits: in text they sort as numbers.
    """
    for port in itertools.islice(_next_ports, len(ports_of_worker())):
        if all(is_free(port, host) for host in hosts or ("127.0.0.1",)):
            return port
    raise AssertionError(f"none of {ports_of_worker()} is free")
