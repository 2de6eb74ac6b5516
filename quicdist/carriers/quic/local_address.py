"""Which addresses this machine has, asked of the kernel."""

from __future__ import annotations

import errno
import socket

from quicdist.carriers.quic.engine import SocketAddress


def is_assigned(host: str, family: int) -> bool:
    """Whether a socket can be bound to the address `host`; what cannot be told counts as yes."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def address_towards(peer: SocketAddress, family: int) -> str | None:
    """The address of ours that datagrams to `peer` leave from; None where none would."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(peer)  # sends nothing
            host: str = probe.getsockname()[0]
            return host
    except OSError:
        return None
