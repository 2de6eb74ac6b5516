"""The role of a node on a connection."""

from __future__ import annotations

import enum


class Role(enum.Enum):
    """Which node opened the connection.

    The dialer is the initiator in the ERTS manual, the listener the acceptor.
    """

    DIALER = "dialer"
    LISTENER = "listener"
