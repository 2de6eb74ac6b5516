"""What a node tells about itself to other nodes: the functions of the module `quicdist`.

- `quicdist:exports()` is a list of maps, one for each exported function that the caller may call.
- `quicdist:status()` is a map: the node, its processes and its connections at this moment.

Both are called by `erpc` and `rpc` as exported functions are, and need the same right: a peer whose
`Access.calls` are restricted needs `quicdist:exports` or `quicdist:status` among them.
"""

from __future__ import annotations

import heapq
import inspect
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from quicdist.etf import Atom, Term
from quicdist.kernel.exports import Exported, Exports
from quicdist.runtime.mailbox import Mailbox
from quicdist.runtime.process import Process
from quicdist.runtime.process_table import ProcessTable

MODULE = "quicdist"
EXPORTS = "exports"
STATUS = "status"

MOST_PROCESSES = 200
"""Rows of `status`: those with the most messages waiting."""

_MOST_DOC = 200
"""Characters of a documentation line."""

Connections: TypeAlias = Callable[[], Iterator[dict[Term, Term]]]
"""One map for each connection that is up."""


class Introspection:
    """Answers for one incarnation of a node. Nothing is counted for it beforehand."""

    def __init__(
        self,
        system: ProcessTable,
        exports: Exports,
        may_call: Callable[[Atom | None, str, str], bool],
        running: Callable[[], int],
        connections: Connections,
    ) -> None:
        """`may_call` is that of RpcServer. `running` is the number of calls of exported functions
        that have not ended."""
        self._system = system
        self._exports = exports
        self._may_call = may_call
        self._running = running
        self._connections = connections
        self._began = time.monotonic()

    def exports(self, caller: Atom | None) -> Term:
        """The functions that `caller` may call; None is this node, which may call all."""
        return [
            _described(one) for one in self._exports if self._may_call(caller, one.module, one.name)
        ]

    def status(self, caller: Atom | None) -> Term:
        """The node at this moment. Times are in milliseconds, sizes in bytes."""
        processes = list(self._system.processes.values())
        mailboxes = [one for one in processes if isinstance(one, Mailbox)]
        rows = heapq.nlargest(MOST_PROCESSES, processes, key=_fullness)
        return {
            Atom("language"): f"Python {platform.python_version()}".encode(),
            Atom("uptime"): int((time.monotonic() - self._began) * 1000),
            Atom("cpu_time"): int(time.process_time() * 1000),
            Atom("processes"): len(processes),
            Atom("mailboxes"): len(mailboxes),
            Atom("messages"): sum(one.message_count for one in mailboxes),
            Atom("message_bytes"): sum(one.level.size for one in mailboxes),
            Atom("calls"): self._running(),
            Atom("rows"): [_row(one) for one in rows],
            Atom("connections"): list(self._connections()),
        }


def _described(exported: Exported) -> Term:
    return {
        Atom("module"): exported.module,
        Atom("function"): exported.name,
        Atom("least"): exported.least,
        Atom("most"): Atom("infinity") if exported.most is None else exported.most,
        Atom("doc"): _first_line(exported.function).encode("utf-8", "replace"),
    }


def _first_line(function: Callable[..., object]) -> str:
    """The first line of the docstring. That of a partial object's own class says nothing."""
    documented = getattr(function, "func", function)
    lines: Sequence[str] = (inspect.getdoc(documented) or "").splitlines()
    return lines[0].strip()[:_MOST_DOC] if lines else ""


def _fullness(process: Process) -> tuple[int, bool]:
    """Order of the rows: messages waiting first, then processes with a name."""
    waiting = process.message_count if isinstance(process, Mailbox) else 0
    return waiting, process.name is not None


def _row(process: Process) -> Term:
    is_mailbox = isinstance(process, Mailbox)
    return {
        Atom("pid"): process.pid,
        Atom("name"): Atom("undefined") if process.name is None else process.name,
        Atom("kind"): Atom("mailbox" if is_mailbox else "system"),
        Atom("messages"): process.message_count if isinstance(process, Mailbox) else 0,
        Atom("bytes"): process.level.size if is_mailbox else 0,
        Atom("monitors"): len(process.watchers),
    }
