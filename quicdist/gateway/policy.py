"""What a gateway lets peers do to the BEAM node behind it: frozen settings, no bytes yet.

Whatever comes as an answer (a reply by alias, DOWN, the exit of a linked process, a spawn's
reply) passes under any policy; rules are about what a peer begins.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from quicdist.gateway.otp_names import NET_KERNEL, OTP_NAMES, REX

EVERYTHING = "*"


class Mode(enum.Enum):
    """What is done about a message that the rules do not let through."""

    REFUSE = "refuse"
    """It is dropped, and answered as OTP answers where there is no such process."""
    LOG = "log"
    """It passes; the log says what would have been refused."""


class Pids(enum.Enum):
    """Which processes behind the gateway a peer may reach by their pids."""

    CALLERS = "callers"
    """Those that have sent to a name at the peer, or spawned there, or that the peer spawned."""
    ANY = "any"
    """All. Pids are small numbers: who guesses that of `rex` may call any function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRules:
    """What peers of some names may begin. Without more than `nodes`: ping, and answer calls."""

    nodes: tuple[str, ...]
    """Patterns of node names, `*` and `?` as in a shell."""

    names: tuple[str, ...] = ()
    """Patterns of registered names that may be sent to and monitored. A wildcard fits none of
    OTP's own names; those have to be written out. `rex` and `net_kernel` go by `calls` and `ping`
    alone."""

    calls: tuple[str, ...] = ()
    """Patterns `module:function` of what may be run by `rpc`, `erpc` and `spawn`, `*` for all.
    A fun is `erlang:apply`. Only with other patterns than `*` is it read which function is meant.
    """

    ping: bool = True
    """Whether `net_adm:ping` is answered."""

    monitors: bool = True
    """Whether what may be sent to may be monitored."""

    links: bool = False
    """Whether processes may be linked to: a link ends them when its other end ends."""

    exits: bool = False
    """Whether exit signals may be sent, as by `exit/2`."""

    group_leaders: bool = False
    """Whether a process may be given another group leader."""

    system_messages: bool = False
    """Whether `sys` may be used, which runs any fun within an OTP process (`sys:replace_state`).
    Unless true, the first bytes of every message are looked at."""

    pids: Pids = Pids.CALLERS

    def fits(self, node: str) -> bool:
        """Whether these rules are for a peer of this name."""
        return _fits(node, self.nodes)

    def may_send_to(self, name: str) -> bool:
        """Whether a message to this registered name may pass, whatever is in it."""
        if name in (REX, NET_KERNEL):
            return EVERYTHING in self.calls
        if name in OTP_NAMES:
            return name in self.names
        return _fits(name, self.names)

    def may_monitor(self, name: str) -> bool:
        """Whether the process of this registered name may be monitored."""
        if name == NET_KERNEL:
            return self.monitors and bool(self.calls or self.ping)
        if name == REX:
            return self.monitors and bool(self.calls)
        return self.monitors and self.may_send_to(name)

    def may_call(self, module: str, function: str) -> bool:
        """Whether this function may be run."""
        called = f"{module}:{function}"
        return any(pattern == EVERYTHING or fnmatchcase(called, pattern) for pattern in self.calls)


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules for peers, the first that fit a peer's name being its. Whom none fit is turned away
    in the handshake, as by `net_kernel:allow/1`."""

    peers: tuple[PeerRules, ...]
    mode: Mode = Mode.REFUSE

    def rules_for(self, node: str) -> PeerRules | None:
        """The rules for a peer of this name; None when it may not connect."""
        return next((rules for rules in self.peers if rules.fits(node)), None)


def _fits(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)
