"""Which nodes are talked to, and what each of them may do here."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

EVERYTHING = "*"

_SERVED = ("rex", "net_kernel")
"""Names that every peer may send to: what they do for it goes by `calls`, and is ping."""


class Tracebacks(enum.Enum):
    """To whom the traceback of an exported function that raised is sent. Our own log has it."""

    LOOPBACK = "loopback"
    """To nodes of this machine. Others get the type of the error alone: its text, too, may hold
    what is not for them, such as the URL of a database with its password."""
    ALL = "all"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Rights:
    """What one peer may do besides calling functions."""

    names: Sequence[str]
    """Patterns of registered names that it may send to."""
    system_messages: bool
    exits: bool
    links: bool
    monitors: bool
    group_leaders: bool
    any_pid: bool
    """To send to, link and monitor any process by its pid, not only those that have sent it
    something."""

    @property
    def is_everything(self) -> bool:
        """Whether there is nothing to check."""
        return EVERYTHING in self.names and all(
            (
                self.system_messages,
                self.exits,
                self.links,
                self.monitors,
                self.group_leaders,
                self.any_pid,
            )
        )

    def may_send_to(self, name: str) -> bool:
        """Whether it may send to the process of this registered name."""
        return _matches(name, self.names)


@dataclass(frozen=True, slots=True)
class Access:
    """What nodes may do here. Names may be patterns, in which `*` stands for anything (fnmatch).

        Access(accept=["*@10.0.0.7"], calls={"*@10.0.0.7": ["calc:*"], "4433@10.0.0.8": ["*"]})

    By default peers are trusted as OTP trusts whoever has the cookie. A peer whose `calls` are
    restricted is trusted with nothing else either: it may call what they say, answer what it is
    asked, monitor what it may send to, and ping. The other fields give it more, or take something
    from those that may call everything. They have the names that a gateway's policy has for them.

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

    def accepts(self, node: str) -> bool:
        """Whether it may connect to us."""
        return _matches(node, self.accept)

    def dials(self, node: str) -> bool:
        """Whether we connect to it."""
        return _matches(node, self.dial)

    def may_call(self, node: str, module: str, function: str) -> bool:
        """Whether that node may call this exported function."""
        return any(
            _matches(f"{module}:{function}", functions) for functions in self._calls_of(node)
        )

    def rights(self, node: str, exported: Sequence[str]) -> Rights:
        """What that node may do besides; `exported` are the modules that are served."""
        is_trusted = any(EVERYTHING in functions for functions in self._calls_of(node))

        def allows(nodes: Sequence[str] | None) -> bool:
            return is_trusted if nodes is None else _matches(node, nodes)

        return Rights(
            names=self._names_of(node, is_trusted, exported),
            system_messages=allows(self.system_messages),
            exits=allows(self.exits),
            links=allows(self.links),
            monitors=allows(self.monitors),
            group_leaders=allows(self.group_leaders),
            any_pid=allows(self.pids),
        )

    def _calls_of(self, node: str) -> list[Sequence[str]]:
        return [functions for nodes, functions in self.calls.items() if fnmatchcase(node, nodes)]

    def _names_of(self, node: str, is_trusted: bool, exported: Sequence[str]) -> Sequence[str]:
        if self.names is None:
            return (EVERYTHING,) if is_trusted else (*_SERVED, *exported)
        listed = [
            name
            for nodes, names in self.names.items()
            if fnmatchcase(node, nodes)
            for name in names
        ]
        return (*_SERVED, *exported, *listed)


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)
