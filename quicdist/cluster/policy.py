"""What peers may do to a node, the BEAM node behind a gateway or a Python node: frozen settings.

An answer passes under any policy: a reply by an alias that the node has sent to this peer, the
DOWN of its monitor, the exit of a linked process, the reply to its spawn request. Rules are about
what a peer begins.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from fnmatch import fnmatchcase

from quicdist.cluster.access_rules import EVERYTHING, AccessRules, Pids, check_name_pattern

__all__ = ["EVERYTHING", "Mode", "PeerRules", "Pids", "Policy"]


class Mode(enum.Enum):
    """What is done about a message that the rules do not allow."""

    REFUSE = "refuse"
    """It is dropped, and answered as OTP answers where there is no such process."""
    LOG = "log"
    """It passes; the log says what would have been refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRules(AccessRules):
    """What peers of some names may begin."""

    nodes: tuple[str, ...]
    """Patterns of node names, `*` and `?` as in a shell."""

    def __post_init__(self) -> None:
        """Raises ValueError for a pattern of names that may cover processes of OTP's."""
        for pattern in self.names:
            check_name_pattern(pattern)

    def fits(self, node: str) -> bool:
        """Whether these rules are for a peer of this name."""
        return any(fnmatchcase(node, pattern) for pattern in self.nodes)


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules for peers, the first that fit a peer's name being its. A peer that none fit is refused
    in the handshake, as by `net_kernel:allow/1`."""

    peers: tuple[PeerRules, ...]
    mode: Mode = Mode.REFUSE

    def rules_for(self, node: str) -> PeerRules | None:
        """The rules for a peer of this name; None when it may not connect."""
        return next((rules for rules in self.peers if rules.fits(node)), None)
