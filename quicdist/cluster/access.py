"""Which nodes are talked to, and what each of them may do here."""

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

_MOST_REMEMBERED = 4096
"""Nodes whose rules are not looked up again."""


class Tracebacks(enum.Enum):
    """To whom the traceback of an exported function that raised is sent. Our own log has it."""

    LOOPBACK = "loopback"
    """To nodes of this machine. Others get the type of the error alone: its text, too, may hold
    what is not for them, such as the URL of a database with its password."""
    ALL = "all"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Access:
    """What nodes may do here. Names may be patterns, in which `*` stands for anything (fnmatch).

        Access(accept=["*@10.0.0.7"], calls={"*@10.0.0.7": ["calc:*"], "4433@10.0.0.8": ["*"]})
        Access(policy=read_policy("policy.toml"))

    By default peers are trusted as OTP trusts every node that has the cookie. A peer whose `calls`
    are restricted is trusted with nothing else either: it may call what they say, answer what it is
    asked, monitor what it may send to, and ping. The other fields give it more, or take something
    from those that may call everything. They have the names that a policy has for them, and are
    compiled to the same rules (`AccessRules`).

    A name is as good as what proves it: see `Trust`.
    """

    accept: Sequence[str] = ("*",)
    """Nodes that may connect to us."""

    dial: Sequence[str] = ("*",)
    """Nodes that we connect to."""

    calls: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"*": ("*",)})
    """For each pattern of names, the exported functions that such nodes may call: `module:function`
    or a pattern of it. A node may call what any of the patterns that it matches allows. To it, all
    others are as if they were not exported."""

    names: Mapping[str, Sequence[str]] | None = None
    """For each pattern of nodes, the registered names, or patterns of them, that such nodes may
    send to. `rex`, `net_kernel` and exported modules go by `calls`."""

    system_messages: Sequence[str] | None = None
    """Nodes that may use `sys` (`sys:get_state`, `sys:terminate`), and send what the runtime sends:
    `{'EXIT', Parent, Reason}` ends a server. This field and the next ones: None is those that may
    call everything, an empty one nobody."""

    exits: Sequence[str] | None = None
    """Nodes that may send exit signals, as `exit/2` does."""

    links: Sequence[str] | None = None
    """Nodes that may link processes here to theirs: a link ends them when its other end ends."""

    monitors: Sequence[str] = ("*",)
    """Nodes that may monitor what they may send to."""

    group_leaders: Sequence[str] | None = None
    """Nodes that may give a process here another group leader."""

    pids: Sequence[str] | None = None
    """Nodes that may reach any process by its pid, which is easily guessed; others reach those that
    have sent them something, to answer."""

    tracebacks: Tracebacks = Tracebacks.LOOPBACK

    policy: Policy | None = None
    """Rules in the form that gateways have them. They replace the fields from `calls` to `pids`. A
    node that no entry fits is neither accepted nor dialed."""

    @classmethod
    def of(cls, given: Access | Policy | Path | str | None) -> Access:
        """What `Node(access=...)` takes: None is the default, a path that of a policy file.

        Raises PolicyError."""
        if given is None:
            return cls()
        if isinstance(given, Access):
            return given
        return cls(policy=given if isinstance(given, Policy) else read_policy(given))

    @property
    def mode(self) -> Mode:
        """What is done about what is not allowed."""
        return Mode.REFUSE if self.policy is None else self.policy.mode

    def accepts(self, node: str) -> bool:
        """Whether it may connect to us."""
        return _matches(node, self.accept) and self._has_rules(node)

    def dials(self, node: str) -> bool:
        """Whether we connect to it."""
        return _matches(node, self.dial) and self._has_rules(node)

    def rules_for(self, node: str) -> AccessRules:
        """What that node may begin here."""
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


AccessGiven: TypeAlias = "Access | Policy | Path | str"
"""What `Node(access=...)` takes besides None."""


class AccessControl:
    """The access of a node that runs; it may be changed."""

    access: Access
    rules_for: Callable[[str], AccessRules]
    """As `Access.rules_for`, remembered."""

    def __init__(self, access: Access) -> None:
        self.change(access)

    def change(self, access: Access) -> None:
        """From now on another one holds."""
        self.access = access
        self.rules_for = functools.lru_cache(_MOST_REMEMBERED)(access.rules_for)

    @property
    def only_logs(self) -> bool:
        """Whether what is not allowed passes, and is logged."""
        return self.access.mode is Mode.LOG


def _listed(node: str, by_node: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """What is listed for all patterns that fit a node."""
    fitting = [listed for nodes, listed in by_node.items() if fnmatchcase(node, nodes)]
    return tuple(one for listed in fitting for one in listed)


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)
