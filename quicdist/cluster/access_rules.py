"""Access rules over signals and terms, for gateways and nodes.

The rules are stateless. The pids and aliases that a peer knows are stored where the rules are
applied, in a gateway by `quicdist.gateway.reachability`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from quicdist.cluster.otp_names import NET_KERNEL, OTP_NAMES, REX
from quicdist.etf.terms import Atom, ImproperList, Term
from quicdist.setting_types import NotNegative

EVERYTHING = "*"
"""In `calls`: any function, which amounts to a shell."""

DISCONNECT = "erlang:disconnect_node"
"""In `calls`: the OTP function that a Python node provides for operators."""

SHELLS: tuple[tuple[str, str], ...] = (
    *(("os", "cmd"), ("erlang", "apply"), ("erlang", "spawn"), ("erlang", "open_port")),
    *(("erl_eval", "exprs"), ("rpc", "call"), ("erpc", "call"), ("proc_lib", "spawn")),
    *(("timer", "apply_after"), ("code", "load_binary"), ("file", "eval"), ("gen", "start")),
    ("Elixir.Code", "eval_string"),
)
"""Functions by which a peer of a BEAM node runs any code. The list is not complete."""

MIN_PREFIX = 3
"""The minimum number of characters before the wildcard of a name pattern."""

RUNTIME_TAGS: frozenset[str] = frozenset(
    {
        *("EXIT", "DOWN", "nodeup", "nodedown", "spawn_reply", "CHANGE", "system"),
        *("io_request", "io_reply", "get_parent", "trace", "trace_ts", "seq_trace", "monitor"),
        *("profile", "large_heap", "garbage_collect", "handle_debug", "suspend", "resume"),
        *("ETS-TRANSFER", "gen_event_EXIT"),
    }
)
"""First elements of tuples that the runtime and OTP behaviours send to processes: `sys`
messages, exits, monitors, I/O, tracing. A process does not handle them as ordinary messages."""

_REQUESTS = ("$",)
"""First characters of the tags of OTP requests: `$gen_call`, `$gen_cast`, `$gen_event`."""

_SPAWN_OPTIONS = frozenset({"link", "monitor"})


class Pids(enum.Enum):
    """Which processes a peer may reach by pid."""

    CALLERS = "callers"
    """Processes that wait for an answer of the peer, and processes that the peer spawned. Behind
    a gateway, the former are processes that have sent their own pid to the peer; on a Python
    node, processes that have sent it any message. They accept only answers, not requests to a
    `gen_server`."""
    PARTNERS = "partners"
    """The same processes, which also accept requests."""
    ANY = "any"
    """All processes. Pids are small numbers: a peer that guesses the pid of `rex` may call any
    function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """What a peer may initiate. The default is ping, and answers to requests of this node."""

    names: tuple[str, ...] = ()
    """Registered names that the peer may send to and monitor, or a prefix followed by `*`, as in
    `stats_*`. No wildcard matches a name of OTP; such names must be listed in full. `rex` and
    `net_kernel` are governed by `calls` and `ping`."""

    calls: tuple[str, ...] = ()
    """Patterns `module:function` of what the peer may run by `rpc`, `erpc` and `spawn`; `*`
    matches all. A fun counts as `erlang:apply`."""

    ping: bool = True
    """Whether `net_adm:ping` is answered."""

    monitors: bool = True
    """Whether the peer may monitor the processes that it may send to."""

    links: bool = False
    """Whether the peer may link to processes. A link can end a process when its other end exits."""

    exits: bool = False
    """Whether the peer may send exit signals, as by `exit/2`."""

    group_leaders: bool = False
    """Whether the peer may set the group leader of processes."""

    system_messages: bool = False
    """Whether the peer may send messages with one of RUNTIME_TAGS. `sys:replace_state` runs any
    fun in an OTP process, and `{'EXIT', Parent, Reason}` ends one."""

    funs: bool = False
    """Whether requests may contain funs. `lists:map/2` with a fun amounts to a shell."""

    new_atoms: NotNegative = 10_000
    """The maximum number of atoms that one connection may add to those already received from
    peers."""

    pids: Pids = Pids.CALLERS

    @property
    def is_everything(self) -> bool:
        """Whether a Python node has no restriction to check."""
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
        """Returns whether the peer may send any message to this registered name."""
        if self.may_call_everything and EVERYTHING in self.names:
            return True
        if name in (REX, NET_KERNEL):
            return self.may_call_everything
        if name in OTP_NAMES:
            return name in self.names
        return any(fnmatchcase(name, pattern) for pattern in self.names)

    def may_monitor(self, name: str) -> bool:
        """Returns whether the peer may monitor this registered name."""
        if name == NET_KERNEL:
            return self.monitors and bool(self.calls or self.ping)
        if name == REX:
            return self.monitors and bool(self.calls)
        return self.monitors and self.may_send_to(name)

    def may_call(self, module: str, function: str) -> bool:
        """Returns whether the peer may call this function."""
        called = f"{module}:{function}"
        return any(pattern == EVERYTHING or fnmatchcase(called, pattern) for pattern in self.calls)

    def shells(self) -> dict[str, str]:
        """Returns the patterns in `calls` that allow one of SHELLS, with the first such function.

        They matter for BEAM nodes. A Python node runs exported functions only.
        """
        found: dict[str, str] = {}
        for pattern in self.calls:
            for module, function in SHELLS:
                if pattern == EVERYTHING or fnmatchcase(f"{module}:{function}", pattern):
                    found.setdefault(pattern, f"{module}:{function}")
        return found

    def may_disconnect(self) -> bool:
        """Returns whether the peer may call `erlang:disconnect_node/1` on a Python node.

        The rule must name the function in full.
        """
        return DISCONNECT in self.calls

    @property
    def may_call_everything(self) -> bool:
        """Whether the peer may call everything. Inspecting its messages is then pointless."""
        return EVERYTHING in self.calls

    def may_send_funs(self) -> bool:
        """Returns whether requests may contain funs. True if every function may be called."""
        return self.funs or self.may_call_everything

    def may_spawn_with(self, options: Iterable[Term]) -> bool:
        """Returns whether these spawn options are allowed.

        Others, such as a heap size, can end a node.
        """
        return self.may_call_everything or all(_option(one) in _SPAWN_OPTIONS for one in options)


def check_name_pattern(pattern: str) -> None:
    """Validates a pattern of registered names. Raises ValueError.

    The names that OTP registers differ between releases, so a wildcard requires a prefix: `*` may
    only be the last character, after at least three characters (not counting `Elixir.`), and the
    pattern must not match a known OTP name.
    """
    if pattern in (REX, NET_KERNEL):
        raise ValueError(f"{pattern!r} is governed by `calls` and `ping`")
    prefix = pattern.removesuffix("*")
    if any(wildcard in prefix for wildcard in "*?["):
        raise ValueError(
            f"invalid name pattern {pattern!r}: expected a name, or a prefix followed by *"
        )
    if prefix == pattern:
        return
    if len(prefix.removeprefix("Elixir.")) < MIN_PREFIX:
        raise ValueError(
            f"{pattern!r} could match processes of OTP: expected at least {MIN_PREFIX} "
            "characters before the wildcard, as in 'stats_*'"
        )
    known = sorted(name for name in OTP_NAMES if name.startswith(prefix))
    if known:
        raise ValueError(f"{pattern!r} matches {known[0]} of OTP: list the names in full")


def is_runtime_tag(tag: str | None) -> bool:
    """Returns whether only the runtime system sends tuples with this first element."""
    return tag in RUNTIME_TAGS


def is_request_tag(tag: str | None) -> bool:
    """Returns whether a tuple with this first element is a request to an OTP behaviour."""
    return tag is not None and tag.startswith(_REQUESTS)


def is_runtime_message(message: Term) -> bool:
    """Returns whether only the runtime system or a parent process sends this message."""
    return type(message) is tuple and bool(message) and is_runtime_tag(atom_text(message[0]))


def atom_text(term: Term) -> str | None:
    """Returns the text of an atom, or None for another term. true and false decode to bool."""
    if isinstance(term, bool):
        return "true" if term else "false"
    return str(term) if isinstance(term, Atom) else None


def _option(option: Term) -> str | None:
    if isinstance(option, tuple) and option and not isinstance(option, ImproperList):
        option = option[0]
    return atom_text(option)
