"""Resolves name conflicts when two partitions of a cluster meet.

OTP, global: register_name/3, random_exit_name/3 and similar functions.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Sequence

from quicdist.errors import NodeError, NoProcess
from quicdist.etf import Atom, Export, Pid, Term
from quicdist.etf.notation import format_bounded
from quicdist.kernel.caller import Caller
from quicdist.kernel.global_.table import Entry
from quicdist.protocol import signals
from quicdist.runtime.process import KILL, Process

logger = logging.getLogger("quicdist.node")

_GLOBAL = Atom("global")
_NONE = Atom("none")
_CONFLICT = Atom("global_name_conflict")


class OnConflict(enum.Enum):
    """How a conflict between two processes with the same global name is resolved."""

    KILL_ONE = "random_exit_name"
    """The process on the node with the greater name is killed."""
    TELL_ONE = "random_notify_name"
    """That process gets a message ('global_name_conflict', name) and loses the name."""
    TELL_BOTH = "notify_all_name"
    """Both lose the name. Each gets ('global_name_conflict', name, other pid)."""

    @property
    def method(self) -> Export:
        """The function of `global` that implements this."""
        return Export(_GLOBAL, Atom(self.value), 3)


class Conflicts:
    """Resolves conflicts for the name server."""

    def __init__(self, server: Process, caller: Caller) -> None:
        """`caller` uses established connections only."""
        self._server = server
        self._system = server.system
        self._here = server.system.name
        self._caller = caller

    async def who_keeps(self, entry: Entry, other: Pid) -> Term:
        """Returns the process that keeps the name. The node of the local side's process decides."""
        args: list[Term] = [entry.method, entry.name, other, entry.pid]
        try:
            if entry.pid.node is self._here:
                return await self.resolve_it(*args)
            return await self._ask(entry.pid.node, args)
        except NodeError as error:
            logger.warning("conflict of the global name %s: %s", format_bounded(entry.name), error)
            return other

    async def asked(self, caller: Atom | None, args: Sequence[Term]) -> Term:
        """Handles `global:resolve_it/4` from another node."""
        method, name, one, other = args
        return await self.resolve_it(method, name, one, other)

    async def resolve_it(self, method: Term, name: Term, one: Term, other: Term) -> Term:
        """Implements `global:resolve_it/4`: returns the process that keeps a name.

        A method outside the module `global` is BEAM code, so the node of the other process is
        asked.
        """
        assert isinstance(one, Pid)
        assert isinstance(other, Pid)
        less, greater = (one, other) if one.node < other.node else (other, one)
        match method:
            case Export("global", "random_exit_name", 3):
                logger.info(
                    "conflict of the global name %s: ending %s", format_bounded(name), greater
                )
                self._system.send_exit2(self._server.pid, greater, KILL)
                return less
            case Export("global", "random_notify_name", 3):
                self._tell(greater, (_CONFLICT, name))
                return less
            case Export("global", "notify_all_name", 3):
                self._tell(one, (_CONFLICT, name, other))
                self._tell(other, (_CONFLICT, name, one))
                return _NONE
        if one.node is self._here:
            raise NoProcess(f"{format_bounded(method)} cannot be run on this node")
        return await self._ask(one.node, [method, name, one, other])

    def _tell(self, pid: Pid, message: Term) -> None:
        """Sends a message to a process. Its node may not be connected yet."""
        us = self._server.pid
        self._system.emit(pid.node, us, signals.Message(us, pid), message)

    async def _ask(self, node: Atom, args: list[Term]) -> Term:
        return await self._caller.erpc(node, _GLOBAL, Atom("resolve_it"), args, None)
