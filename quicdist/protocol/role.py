"""Which side of a connection a node is on."""

from __future__ import annotations

import enum


class Role(enum.Enum):
    """Who opened the connection.

    The dialer is the manual's initiator, the listener its acceptor.
    """

    DIALER = "dialer"
    LISTENER = "listener"
