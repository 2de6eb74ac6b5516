"""What a peer may do, as rules over signals and terms; for gateways, and for nodes.

Nothing here keeps state: what a peer was told (pids, aliases) is remembered where the rules are
applied, in a gateway by `quicdist.gateway.reachability`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from quicdist.cluster.otp_names import NET_KERNEL, OTP_NAMES, REX
from quicdist.etf.terms import Atom, ImproperList, Term

EVERYTHING = "*"
"""Of `calls`: any function, thus a shell."""

DISCONNECT = "erlang:disconnect_node"
"""Of `calls`: the one function of OTP's that a Python node runs for operators."""

MIN_PREFIX = 3
"""Characters that a pattern of names has at least in front of its wildcard."""

RUNTIME_TAGS: frozenset[str] = frozenset(
    {
        *("EXIT", "DOWN", "nodeup", "nodedown", "spawn_reply", "CHANGE", "system"),
        *("io_request", "io_reply", "get_parent", "trace", "trace_ts", "seq_trace", "monitor"),
        *("profile", "large_heap", "garbage_collect", "handle_debug", "suspend", "resume"),
    }
)
"""First elements of tuples that the runtime and OTP's behaviours send to processes: `sys`, exits of
links and of parents, monitors, I/O, tracing. To a process such a tuple is no ordinary message."""

_REQUESTS = ("$",)
"""First characters of the tags of OTP's requests: `$gen_call`, `$gen_cast`, `$gen_event`."""

_SPAWN_OPTIONS = frozenset({"link", "monitor"})


class Pids(enum.Enum):
    """Which processes a peer may reach by their pids."""

    CALLERS = "callers"
    """Those that wait for an answer of the peer's, and those that the peer spawned. Behind a
    gateway the first are processes that have sent their own pid to the peer; on a Python node,
    processes that have sent it anything. They get answers only, no request to a `gen_server`."""
    PARTNERS = "partners"
    """The same processes, and they may be sent requests too."""
    ANY = "any"
    """All. Pids are small numbers: a peer that guesses that of `rex` may call any function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """What a peer may begin. Without any: ping, and answers to what the node itself began."""

    names: tuple[str, ...] = ()
    """Registered names that may be sent to and monitored, or a prefix of them and `*`, as in
    `stats_*`. No wildcard covers a name of OTP's; those have to be written out. `rex` and
    `net_kernel` go by `calls` and `ping` alone."""

    calls: tuple[str, ...] = ()
    """Patterns `module:function` of what may be run by `rpc`, `erpc` and `spawn`, `*` for all.
    A fun is `erlang:apply`."""

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
    """Whether messages with one of RUNTIME_TAGS may be sent. `sys:replace_state` runs any fun in an
    OTP process, and `{'EXIT', Parent, Reason}` ends one."""

    funs: bool = False
    """Whether requests may contain funs: `lists:map/2` with one is a shell."""

    new_atoms: int = 10_000
    """Atoms that one connection may bring along and that no peer has brought before."""

    pids: Pids = Pids.CALLERS

    @property
    def is_everything(self) -> bool:
        """Whether a Python node has nothing to check."""
        return (
            self.may_call_everything
            and EVERYTHING in self.names
            and self.pids is Pids.ANY
            and all(
                (
                    *(self.ping, self.monitors, self.links, self.exits),
                    *(self.group_leaders, self.system_messages),
                )
            )
        )

    def may_send_to(self, name: str) -> bool:
        """Whether a message to this registered name may pass, whatever its request is."""
        if self.may_call_everything and EVERYTHING in self.names:
            return True
        if name in (REX, NET_KERNEL):
            return self.may_call_everything
        if name in OTP_NAMES:
            return name in self.names
        return any(fnmatchcase(name, pattern) for pattern in self.names)

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

    def may_disconnect(self) -> bool:
        """Whether the peer may end connections of a Python node (`erlang:disconnect_node/1`): only
        where that is written out, as it is for operators."""
        return DISCONNECT in self.calls

    @property
    def may_call_everything(self) -> bool:
        """Whether the peer has a shell, so that there is no use in looking at what it sends."""
        return EVERYTHING in self.calls

    def may_send_funs(self) -> bool:
        """Whether a request may contain funs. Where every function may be called, it may."""
        return self.funs or self.may_call_everything

    def may_spawn_with(self, options: Iterable[Term]) -> bool:
        """Whether these options of a spawn request are harmless: a heap size can end a node."""
        return self.may_call_everything or all(_option(one) in _SPAWN_OPTIONS for one in options)


def check_name_pattern(pattern: str) -> None:
    """Raises ValueError for a pattern of names that cannot hold.

    Which names OTP registers differs by release, so a wildcard needs a prefix that the operator
    knows: `*` may stand at the end only, behind three characters at least (behind `Elixir.` not
    counted), and the pattern must not match a name that is known as OTP's.
    """
    if pattern in (REX, NET_KERNEL):
        raise ValueError(f"{pattern!r} goes by `calls` and `ping`, not by its name")
    prefix = pattern.removesuffix("*")
    if any(wildcard in prefix for wildcard in "*?["):
        raise ValueError(
            f"{pattern!r}: a name expected, or the beginning of names and * at its end"
        )
    if prefix == pattern:
        return
    if len(prefix.removeprefix("Elixir.")) < MIN_PREFIX:
        raise ValueError(
            f"{pattern!r} would open processes of OTP's: write names out, or at least {MIN_PREFIX} "
            "characters that they begin with and no others do, as in 'stats_*'"
        )
    known = sorted(name for name in OTP_NAMES if name.startswith(prefix))
    if known:
        raise ValueError(f"{pattern!r} covers {known[0]}, which is OTP's: write the names out")


def is_runtime_tag(tag: str | None) -> bool:
    """Whether a tuple with this first element is for the runtime system to send."""
    return tag in RUNTIME_TAGS


def is_request_tag(tag: str | None) -> bool:
    """Whether a tuple with this first element is a request to one of OTP's behaviours."""
    return tag is not None and tag.startswith(_REQUESTS)


def is_runtime_message(message: Term) -> bool:
    """Whether a message is one that only the runtime system, or a parent, sends."""
    return type(message) is tuple and bool(message) and is_runtime_tag(atom_text(message[0]))


def atom_text(term: Term) -> str | None:
    """The text of an atom, None for another term; true and false decode to bool."""
    if isinstance(term, bool):
        return "true" if term else "false"
    return str(term) if isinstance(term, Atom) else None


def _option(option: Term) -> str | None:
    if isinstance(option, tuple) and option and not isinstance(option, ImproperList):
        option = option[0]
    return atom_text(option)
