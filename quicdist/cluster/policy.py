"""Policies: what peers may do to a node, either a BEAM node behind a gateway or a Python node.

Answers pass under any policy: a reply by an alias that the node has sent to the peer, the DOWN
signal of its monitor, the exit of a linked process, and the reply to its spawn request. Rules
restrict what a peer initiates.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from fnmatch import fnmatchcase

from quicdist.cluster.access_rules import EVERYTHING, AccessRules, Pids, check_name_pattern
from quicdist.setting_types import check_fields

__all__ = ["EVERYTHING", "Mode", "PeerRules", "Pids", "Policy"]


class Mode(enum.Enum):
    """What happens to a message that the rules do not allow."""

    REFUSE = "refuse"
    """It is dropped, and answered as OTP does for a nonexistent process."""
    LOG = "log"
    """It passes and is logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRules(AccessRules):
    """The rules for peers whose names match one of `nodes`."""

    nodes: tuple[str, ...]
    """Patterns of node names with `*` and `?`, as in a shell."""

    def __post_init__(self) -> None:
        """Raises TypeError, and ValueError for a name pattern that may match processes of OTP."""
        check_fields(self)
        for pattern in self.names:
            check_name_pattern(pattern)

    def fits(self, node: str) -> bool:
        """Returns whether the rules apply to a peer of this name."""
        return any(fnmatchcase(node, pattern) for pattern in self.nodes)


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules for peers.

    The first entry that matches a peer's name applies. A peer without a match is rejected in the
    handshake, as by `net_kernel:allow/1`.
    """

    peers: tuple[PeerRules, ...]
    mode: Mode = Mode.REFUSE

    def __post_init__(self) -> None:
        """Raises TypeError."""
        check_fields(self)

    def rules_for(self, node: str) -> PeerRules | None:
        """Returns the rules for a peer of this name, or None if it may not connect."""
        return next((rules for rules in self.peers if rules.fits(node)), None)
