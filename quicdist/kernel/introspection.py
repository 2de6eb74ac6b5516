"""Built-in functions for other nodes: the module `quicdist`.

- `quicdist:exports()` returns a list of maps, one for each exported function that the caller may
  call.
- `quicdist:status()` returns a map with the state of the node, its processes and connections.
- `quicdist:bench(Payload, Size)` ignores its first argument and returns a binary of `Size` bytes,
  for `quicdist bench`.

They are called by `erpc` and `rpc` like exported functions and need the same permission: a peer
whose `Access.calls` are restricted needs `quicdist:exports`, for example, among them.
"""

from __future__ import annotations

import heapq
import inspect
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from quicdist.errors import ErlangError
from quicdist.etf import Atom, Term
from quicdist.kernel.exports import Exported, Exports
from quicdist.runtime.mailbox import Mailbox
from quicdist.runtime.process import Process
from quicdist.runtime.process_table import ProcessTable

MODULE = "quicdist"
EXPORTS = "exports"
STATUS = "status"
BENCH = "bench"

MOST_BENCH = 1024 * 1024
"""The maximum size in bytes of the answer of `bench`."""

MOST_PROCESSES = 200
"""The maximum number of rows of `status`: the processes with the most queued messages."""

_MOST_DOC = 200
"""The maximum number of characters of a documentation line."""

Connections: TypeAlias = Callable[[], Iterator[dict[Term, Term]]]
"""Returns one map for each established connection."""


class Introspection:
    """Answers for one node incarnation. Everything is computed on request."""

    def __init__(
        self,
        system: ProcessTable,
        exports: Exports,
        may_call: Callable[[Atom | None, str, str], bool],
        running: Callable[[], int],
        connections: Connections,
    ) -> None:
        """`may_call` is `RpcServer.may_call`.

        `running` returns the number of calls of exported functions that have not ended.
        """
        self._system = system
        self._exports = exports
        self._may_call = may_call
        self._running = running
        self._connections = connections
        self._began = time.monotonic()

    def exports(self, caller: Atom | None) -> Term:
        """Returns the functions that `caller` may call. None is this node, which may call all."""
        return [
            _described(one) for one in self._exports if self._may_call(caller, one.module, one.name)
        ]

    def status(self, caller: Atom | None) -> Term:
        """Returns the state of the node. Times are in milliseconds, sizes in bytes."""
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


def bench(size: Term) -> Term:
    """Returns `size` bytes, at most MOST_BENCH. Raises ErlangError `badarg`."""
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MOST_BENCH:
        raise ErlangError(Atom("badarg"))
    return bytes(size)


def _described(exported: Exported) -> Term:
    return {
        Atom("module"): exported.module,
        Atom("function"): exported.name,
        Atom("least"): exported.least,
        Atom("most"): Atom("infinity") if exported.most is None else exported.most,
        Atom("doc"): _first_line(exported.function).encode("utf-8", "replace"),
    }


def _first_line(function: Callable[..., object]) -> str:
    """Returns the first line of the docstring, for a partial object that of its function."""
    documented = getattr(function, "func", function)
    lines: Sequence[str] = (inspect.getdoc(documented) or "").splitlines()
    return lines[0].strip()[:_MOST_DOC] if lines else ""


def _fullness(process: Process) -> tuple[int, bool]:
    """Sort key of the rows: queued messages first, then whether the process has a name."""
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
