"""Local addresses of this machine, as the kernel reports them."""

from __future__ import annotations

import errno
import socket

from quicdist.carriers.quic.engine import SocketAddress


def is_assigned(host: str, family: int) -> bool:
    """Returns whether this machine has the address `host`.

    Returns False only if a bind fails with EADDRNOTAVAIL.
    """
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def address_towards(peer: SocketAddress, family: int) -> str | None:
    """Returns the local address that the kernel uses for datagrams to `peer`.

    Returns None if there is no route to `peer`.
    """
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(peer)  # sends nothing
            host: str = probe.getsockname()[0]
            return host
    except OSError:
        return None
