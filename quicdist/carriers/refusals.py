"""What a carrier turns away of those who dial it, and how often."""

from __future__ import annotations

import enum
from collections import Counter
from typing import TypeAlias


class Refusal(enum.Enum):
    """Why. The value is its name in statistics and metrics."""

    STRAY = "stray"
    """A datagram for no connection that is not the first of one either."""

    VERSION = "version"
    """A version of QUIC that is not spoken here; it was told which are."""

    CONNECTIONS_FULL = "connections_full"
    """As many connections are open as may be."""

    HALF_OPEN_FULL = "half_open_full"
    """As many are open as may be whose distribution handshake is not done."""

    ADDRESS_FULL = "address_full"
    """As many come from its address as may, or as may whose distribution handshake is not done."""

    UNPROVED = "unproved"
    """It was asked to show that it receives at its address (Retry), and may come again."""

    BAD_PROOF = "bad_proof"
    """What it brought to show that is not ours, too old, or was given to another address."""

    RESET = "reset"
    """It went on with a connection that is not known, and was told so (stateless reset)."""

    BROKEN = "broken"
    """A first datagram that no QUIC library has made."""

    TLS = "tls"
    """It ended within the TLS handshake: no ALPN in common, a certificate, or a dialer gone."""

    UNUSED = "unused"
    """The TLS handshake was done, and nothing came in time."""

    NOT_TAKEN = "not_taken"
    """The node did not take it."""


Refusals: TypeAlias = "Counter[Refusal]"
"""How often each has happened since the endpoint was opened."""
