"""Access control: which nodes may connect, and what each of them may do."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

from quicdist.cluster.access_rules import EVERYTHING, AccessRules, Pids
from quicdist.cluster.policy import Mode, Policy
from quicdist.cluster.policy_file import read_policy
from quicdist.setting_types import check_fields

_MOST_REMEMBERED = 4096
"""The number of nodes whose rules are cached."""


class Tracebacks(enum.Enum):
    """Which peers receive the traceback when an exported function raises.

    The local log always has it.
    """

    LOOPBACK = "loopback"
    """Nodes on this machine. Other nodes receive only the type of the exception, since its text
    may contain secrets, such as a database URL with a password."""
    ALL = "all"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Access:
    """What peers may do on this node. Names can be `fnmatch` patterns: `*` matches anything.

        Access(accept=["*@10.0.0.7"], calls={"*@10.0.0.7": ["calc:*"], "4433@10.0.0.8": ["*"]})
        Access(policy=read_policy("policy.toml"))

    By default every peer is fully trusted, as in OTP where the cookie grants everything. A peer
    whose `calls` are restricted may only call what they list, answer requests, monitor what it may
    send to, and ping. The other fields extend or restrict that. They have the same names as in a
    policy and are compiled to the same rules (`AccessRules`).

    Rules rely on the peer's name. How a name is authenticated depends on `Trust`.
    """

    accept: Sequence[str] = ("*",)
    """Nodes that may connect to this node."""

    dial: Sequence[str] = ("*",)
    """Nodes that this node may connect to."""

    calls: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"*": ("*",)})
    """The exported functions that nodes may call, by node name pattern: `module:function` or a
    pattern of it. A node may call what any of its matching patterns allows. Other functions
    appear to it as not exported."""

    names: Mapping[str, Sequence[str]] | None = None
    """The registered names, or patterns of them, that nodes may send to, by node name pattern.
    `rex`, `net_kernel` and exported modules are governed by `calls`."""

    system_messages: Sequence[str] | None = None
    """Nodes that may send system messages (`sys:get_state`, `sys:terminate`) and messages of the
    runtime, such as `{'EXIT', Parent, Reason}`, which ends a server. For this field and the
    following ones, None means the nodes that may call everything, and an empty sequence means no
    node."""

    exits: Sequence[str] | None = None
    """Nodes that may send exit signals, as by `exit/2`."""

    links: Sequence[str] | None = None
    """Nodes that may link to processes of this node. A link can end a process when its other end
    exits."""

    monitors: Sequence[str] = ("*",)
    """Nodes that may monitor the processes that they may send to."""

    group_leaders: Sequence[str] | None = None
    """Nodes that may set the group leader of processes of this node."""

    pids: Sequence[str] | None = None
    """Nodes that may send to any pid. Pids are easy to guess. Other nodes may only answer
    processes that have sent them a message."""

    tracebacks: Tracebacks = Tracebacks.LOOPBACK

    policy: Policy | None = None
    """A policy, as gateways use it. It replaces the fields from `calls` to `pids`. A node that
    no entry matches is neither accepted nor dialed."""

    def __post_init__(self) -> None:
        """Raises TypeError."""
        check_fields(self)

    @classmethod
    def of(cls, given: Access | Policy | Path | str | None) -> Access:
        """Converts the argument of `Node(access=...)`.

        None is the default, a path that of a policy file. Raises PolicyError.
        """
        if given is None:
            return cls()
        if isinstance(given, Access):
            return given
        return cls(policy=given if isinstance(given, Policy) else read_policy(given))

    @property
    def mode(self) -> Mode:
        """What happens to messages that are not allowed."""
        return Mode.REFUSE if self.policy is None else self.policy.mode

    def accepts(self, node: str) -> bool:
        """Returns whether a node may connect to this node."""
        return _matches(node, self.accept) and self._has_rules(node)

    def dials(self, node: str) -> bool:
        """Returns whether this node may connect to a node."""
        return _matches(node, self.dial) and self._has_rules(node)

    def rules_for(self, node: str) -> AccessRules:
        """Returns the rules for a node."""
        if self.policy is not None:
            return self.policy.rules_for(node) or AccessRules(ping=False, monitors=False)
        calls = _listed(node, self.calls)
        is_trusted = EVERYTHING in calls

        def allows(nodes: Sequence[str] | None) -> bool:
            return is_trusted if nodes is None else _matches(node, nodes)

        if self.names is None:
            names: tuple[str, ...] = (EVERYTHING,) if is_trusted else ()
        else:
            names = _listed(node, self.names)
        return AccessRules(
            names=names,
            calls=calls,
            monitors=allows(self.monitors),
            links=allows(self.links),
            exits=allows(self.exits),
            group_leaders=allows(self.group_leaders),
            system_messages=allows(self.system_messages),
            pids=Pids.ANY if allows(self.pids) else Pids.CALLERS,
        )

    def _has_rules(self, node: str) -> bool:
        policy = self.policy
        return policy is None or policy.mode is Mode.LOG or policy.rules_for(node) is not None


AccessGiven: TypeAlias = Access | Policy | Path | str
"""The types of the argument of `Node(access=...)`, besides None."""


class AccessControl:
    """The current access rules of a running node. They can be replaced."""

    access: Access
    rules_for: Callable[[str], AccessRules]
    """`Access.rules_for`, cached."""

    def __init__(self, access: Access) -> None:
        self.change(access)

    def change(self, access: Access) -> None:
        """Replaces the access rules."""
        self.access = access
        self.rules_for = functools.lru_cache(_MOST_REMEMBERED)(access.rules_for)

    @property
    def only_logs(self) -> bool:
        """Whether violations are only logged."""
        return self.access.mode is Mode.LOG


def _listed(node: str, by_node: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Returns the entries of all patterns that match a node."""
    fitting = [listed for nodes, listed in by_node.items() if fnmatchcase(node, nodes)]
    return tuple(one for listed in fitting for one in listed)


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)
