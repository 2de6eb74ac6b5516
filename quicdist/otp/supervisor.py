"""Supervisors: processes that start other processes and restart them when they end.

    tree = Supervisor(
        node,
        [Child("counter", Counter, name="counter"), Child("worker", work)],
        strategy=Strategy.ONE_FOR_ONE,
    )
    await start(node, tree, name="tree")

OTP, supervisor(3): restart strategies, restart intensity, order of starts and stops, and the
answers to `supervisor:which_children/1` and `count_children/1`.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import inspect
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from quicdist.errors import NameTaken
from quicdist.etf import Atom, Pid, Term
from quicdist.etf.notation import format_bounded
from quicdist.node.node import Node
from quicdist.otp.gen_server import From, GenServer, InitError, Stop, start
from quicdist.runtime.mailbox import Mailbox
from quicdist.runtime.process import KILL, NORMAL, SHUTDOWN
from quicdist.setting_types import Duration, NotNegative, PositiveDuration, check_fields, check_type

logger = logging.getLogger("quicdist.otp")

_OK = Atom("ok")
_ERROR = Atom("error")
_UNDEFINED = Atom("undefined")
_NOT_FOUND = Atom("not_found")


class Strategy(enum.Enum):
    """Which children are restarted when one ends."""

    ONE_FOR_ONE = "one_for_one"
    """Only the child that ended."""
    ONE_FOR_ALL = "one_for_all"
    """All children. The others are stopped first."""
    REST_FOR_ONE = "rest_for_one"
    """The child that ended and the children started after it."""


class Restart(enum.Enum):
    """When a child is restarted."""

    PERMANENT = "permanent"
    """Always."""
    TRANSIENT = "transient"
    """If it ended with a reason other than `normal`, `shutdown` and `{shutdown, Term}`."""
    TEMPORARY = "temporary"
    """Never."""


@dataclass(frozen=True, slots=True)
class Child:
    """A child specification.

    `make` returns a new GenServer (such as a subclass), or is an async function that takes a
    mailbox. `shutdown` is the time in seconds that the child has to end before it is killed; None
    sets no limit.
    """

    id: str
    make: Callable[[], GenServer] | Callable[[Mailbox], Any]
    name: str | None = None
    restart: Restart = Restart.PERMANENT
    shutdown: Duration | None = 5.0

    def __post_init__(self) -> None:
        """Raises TypeError and SettingError."""
        check_fields(self)


class _Running:
    """A child, and its process if it runs."""

    def __init__(self, spec: Child) -> None:
        self.spec = spec
        self.process: Mailbox | None = None
        self.is_supervisor = False


class Supervisor(GenServer):
    """Starts its children in order, restarts them, and stops them in reverse order.

    If more than `intensity` restarts occur within `period` seconds, the supervisor stops its
    children and ends with the reason `shutdown`. Raises TypeError if a child is no `Child`, and
    ValueError if two have the same id.
    """

    trap_exit = True

    def __init__(
        self,
        node: Node,
        children: Sequence[Child] = (),
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        intensity: int = 1,
        period: float = 5.0,
    ) -> None:
        check_type("children=", children, Sequence[Child])
        check_type("strategy=", strategy, Strategy)
        check_type("intensity=", intensity, NotNegative)
        check_type("period=", period, PositiveDuration)
        if len({child.id for child in children}) != len(children):
            raise ValueError("two children of a supervisor have the same id")
        self._node = node
        self._children = [_Running(child) for child in children]
        self._strategy = strategy
        self._intensity = intensity
        self._period = period
        self._restarts: deque[float] = deque()

    # -- public ----------------------------------------------------------------------------------

    def child(self, identifier: str) -> Mailbox | None:
        """Returns the process of a child, or None if it does not run.

        Raises KeyError if there is no such child.
        """
        for one in self._children:
            if one.spec.id == identifier:
                return one.process
        raise KeyError(identifier)

    # -- callbacks -------------------------------------------------------------------------------

    async def init(self) -> None:
        """Starts the children. If one fails to start, stops those already started."""
        for one in self._children:
            try:
                await self._start(one)
            except (InitError, NameTaken) as error:
                await self._stop_all(self._children)
                why = error.reason if isinstance(error, InitError) else Atom("already_started")
                failed = (Atom("failed_to_start_child"), Atom(one.spec.id), why)
                raise Stop((SHUTDOWN, failed)) from None

    async def terminate(self, reason: Term) -> None:
        """Stops the children in reverse order."""
        await self._stop_all(self._children)

    async def handle_info(self, message: Term) -> None:
        """Handles the exit of a child."""
        match message:
            case ("EXIT", Pid() as pid, reason):
                for one in self._children:
                    if one.process is not None and one.process.pid == pid:
                        one.process = None
                        await self._ended(one, reason)
                        return

    async def _ended(self, one: _Running, reason: Term) -> None:
        spec = one.spec
        is_wanted = reason is NORMAL or reason is SHUTDOWN or _is_shutdown(reason)
        if not is_wanted:
            text = format_bounded(reason, 2000)
            extra = {**self.me.fields("child_ended"), "child": str(spec.id), "reason": text}
            logger.error("%s: %s ended: %s", self.me, spec.id, text, extra=extra)
        if spec.restart is Restart.TEMPORARY:
            self._children.remove(one)
            return
        if spec.restart is Restart.TRANSIENT and is_wanted:
            return
        await self._restart(one)

    async def _restart(self, one: _Running) -> None:
        """Restarts a child, and the other children that the strategy includes."""
        while True:
            self._count_restart()
            if self._strategy is Strategy.ONE_FOR_ONE:
                group = [one]
            elif self._strategy is Strategy.ONE_FOR_ALL:
                group = list(self._children)
            else:
                group = self._children[self._children.index(one) :]
            await self._stop_all(group)
            # Temporary children that were stopped with the others are removed.
            gone = [each for each in group if each.spec.restart is Restart.TEMPORARY]
            for each in gone:
                self._children.remove(each)
            try:
                await self._start_all([each for each in group if each not in gone])
            except (InitError, NameTaken) as error:
                # A failed start counts as a restart, as in OTP, until the intensity is exceeded.
                child = str(one.spec.id)
                extra = {**self.me.fields("child_not_up"), "child": child, "reason": str(error)}
                logger.error("%s: %s failed to restart: %s", self.me, child, error, extra=extra)
                await asyncio.sleep(0)
            else:
                return

    def _count_restart(self) -> None:
        now = asyncio.get_running_loop().time()
        restarts = self._restarts
        restarts.append(now)
        while restarts and now - restarts[0] > self._period:
            restarts.popleft()
        if len(restarts) > self._intensity:
            logger.error(
                "%s: more than %s restarts within %g s: stopping",
                self.me,
                self._intensity,
                self._period,
                extra=self.me.fields("supervisor_gives_up"),
            )
            raise Stop(SHUTDOWN)

    async def _start_all(self, children: Sequence[_Running]) -> None:
        for one in children:
            await self._start(one)

    async def _start(self, one: _Running) -> None:
        spec = one.spec
        make: Any = spec.make
        if _is_main(make):
            one.process = self._node.spawn(make, name=spec.name)
            self.me.link(one.process.pid)
            return
        server = make()
        one.is_supervisor = isinstance(server, Supervisor)
        # The current process is this supervisor, which becomes the parent.
        one.process = await start(self._node, server, name=spec.name, link=True)

    async def _stop_all(self, children: Sequence[_Running]) -> None:
        for one in reversed(children):
            await self._stop(one)

    async def _stop(self, one: _Running) -> None:
        process, one.process = one.process, None
        if process is None:
            return
        pid = process.pid
        if process.is_alive:
            if one.spec.shutdown != 0:
                self.me.exit(pid, SHUTDOWN)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), one.spec.shutdown)
        if process.is_alive:
            self.me.exit(pid, KILL)
            await process.wait()
        self.me.drop(lambda message: _is_exit_of(message, pid))

    # -- calls from other nodes ------------------------------------------------------------------

    async def handle_call(self, request: Term, sender: From) -> Term:
        """Handles the calls of the module `supervisor`.

        These are `which_children`, `count_children`, `terminate_child`, `restart_child` and
        `delete_child`.
        """
        match request:
            case "which_children":
                return [self._shown(one) for one in reversed(self._children)]
            case "count_children":
                return self._counted()
            case (("terminate_child" | "restart_child" | "delete_child") as verb, identifier):
                for one in self._children:
                    if Atom(one.spec.id) == identifier:
                        return await self._order(str(verb), one)
                return _ERROR, _NOT_FOUND
        return _ERROR, Atom("badarg")

    async def _order(self, verb: str, one: _Running) -> Term:
        if verb == "terminate_child":
            await self._stop(one)
            if one.spec.restart is Restart.TEMPORARY:
                self._children.remove(one)
            return _OK
        if one.process is not None:
            return _ERROR, Atom("running")
        if verb == "delete_child":
            self._children.remove(one)
            return _OK
        try:
            await self._start(one)
        except InitError as error:
            return _ERROR, error.reason
        except NameTaken:
            return _ERROR, Atom("already_started")
        assert one.process is not None
        return _OK, one.process.pid

    def _shown(self, one: _Running) -> Term:
        kind = Atom("supervisor" if one.is_supervisor else "worker")
        pid: Term = _UNDEFINED if one.process is None else one.process.pid
        return Atom(one.spec.id), pid, kind, [Atom(getattr(one.spec.make, "__name__", "python"))]

    def _counted(self) -> Term:
        supervisors = sum(one.is_supervisor for one in self._children)
        return [
            (Atom("specs"), len(self._children)),
            (Atom("active"), sum(one.process is not None for one in self._children)),
            (Atom("supervisors"), supervisors),
            (Atom("workers"), len(self._children) - supervisors),
        ]

    def state(self) -> Term:
        """Returns the children, for `sys:get_state`."""
        return [self._shown(one) for one in self._children]


def _is_main(make: object) -> bool:
    return inspect.iscoroutinefunction(make)


def _is_shutdown(reason: Term) -> bool:
    return isinstance(reason, tuple) and len(reason) == 2 and reason[0] == SHUTDOWN


def _is_exit_of(message: Term, pid: Pid) -> bool:
    match message:
        case ("EXIT", Pid() as its, _):
            return its == pid
    return False
