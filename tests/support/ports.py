"""Ports that are free for a test and stay free until it binds them."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator

_FIRST = 10_000
_END = 32_768
"""Start of the range for sockets that bind port 0 (Linux: ip_local_port_range; macOS and RFC 6335:
49152). The system assigns no port below it between the probe and the bind of the test."""


def worker() -> tuple[int, int]:
    """Returns the index of this pytest-xdist worker, from 0, and the number of workers."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return int(name.removeprefix("gw")), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def ports_of_worker() -> range:
    """Returns the ports that only this worker uses."""
    number, count = worker()
    share = (_END - _FIRST) // max(count, number + 1)
    return range(_FIRST + number * share, _FIRST + (number + 1) * share)


def _candidates() -> Iterator[int]:
    ports = ports_of_worker()
    begin = os.getpid() % len(ports)  # concurrent runs on this machine start elsewhere
    return itertools.cycle((*ports[begin:], *ports[:begin]))


_next_ports = _candidates()


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether the port is free on `host`, for both TCP and UDP."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        contextlib.suppress(OSError),
    ):
        for sock in (stream, datagrams):
            sock.bind((host, port))
        return True
    return False


def free_ports(count: int) -> range:
    """Returns consecutive ports that are free on 127.0.0.1. They are not reused soon."""
    for first in itertools.islice(_next_ports, len(ports_of_worker())):
        found = range(first, first + count)
        if found[-1] in ports_of_worker() and all(map(is_free, found)):
            while next(_next_ports) != found[-1]:
                pass
            return found
    raise AssertionError(f"no {count} consecutive ports of {ports_of_worker()} are free")


def free_port(*hosts: str) -> int:
    """Returns a port that is free on each of `hosts` (127.0.0.1), for TCP and UDP.

    Recently returned ports are not reused. All have five digits, so that they sort as numbers.
    """
    for port in itertools.islice(_next_ports, len(ports_of_worker())):
        if all(is_free(port, host) for host in hosts or ("127.0.0.1",)):
            return port
    raise AssertionError(f"none of {ports_of_worker()} is free")
