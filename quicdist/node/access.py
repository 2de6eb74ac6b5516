"""Which nodes are talked to, and what each of them may call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Access:
    """Allow lists of a node. Names may be patterns, in which `*` stands for anything (fnmatch).

        Access(accept=["*@10.0.0.7"], calls={"*@10.0.0.7": ["calc:*"], "4433@10.0.0.8": ["*"]})

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

    def accepts(self, node: str) -> bool:
        """Whether it may connect to us."""
        return _matches(node, self.accept)

    def dials(self, node: str) -> bool:
        """Whether we connect to it."""
        return _matches(node, self.dial)

    def may_call(self, node: str, module: str, function: str) -> bool:
        """Whether that node may call this exported function."""
        return any(
            fnmatchcase(node, nodes) and _matches(f"{module}:{function}", functions)
            for nodes, functions in self.calls.items()
        )


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)
