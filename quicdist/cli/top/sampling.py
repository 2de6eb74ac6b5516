"""Samples of a BEAM node: one call for each, without loading code on the node.

The call passes an Erlang expression to `erl_eval` on the node, so that only the processes to show
are transferred. It reads the reductions of all processes at its beginning and end, and keeps
nothing between calls.

OTP, erl_eval(3), erlang:process_info/2.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.top.python_node import PythonSample, Status, compared, read_status
from quicdist.errors import CallError, CallNotPossible
from quicdist.etf import Atom, Pid, Term
from quicdist.typed import TermError, from_term

if TYPE_CHECKING:
    from quicdist.node.node import Node

_NEEDED = '["erl_scan:string", "erl_parse:parse_exprs", "erl_eval:exprs"]'
"""The rule of a gateway's policy for the calls of this module."""

MOST_PROCESSES = 100_000
"""The maximum number of processes to examine on a node, to limit the cost."""

SHARE = 20
"""Sampling takes at most this fraction (1/SHARE) of the time, whatever interval is given."""

# Lists are processed by compiled functions of stdlib and BIFs; only one generator is interpreted
# for each process. A process that has ended before the second reading matches no pattern.
_QUESTION = """
(fun() ->
    Began = erlang:monotonic_time(microsecond),
    Pids = lists:sublist(lists:delete(self(), erlang:processes()), Most),
    Look = fun(Items) ->
        lists:zipwith(fun erlang:process_info/2, Pids, lists:duplicate(length(Pids), Items))
    end,
    Before = Look(reductions),
    Slept = erlang:monotonic_time(microsecond),
    receive after Window -> ok end,
    Woke = erlang:monotonic_time(microsecond),
    All = [{P, R - R0, M, Q} || {P, {_, R0}, [{_, R}, {_, M}, {_, Q}]} <-
        lists:zip3(Pids, Before, Look([reductions, memory, message_queue_len]))],
    Top = lists:sublist(lists:reverse(lists:keysort(Column, All)), Count),
    Rows = [{P, R, M, Q, proc_lib:translate_initial_call(P),
             erlang:process_info(P, [registered_name, initial_call, current_function])} ||
        {P, R, M, Q} <- Top],
    {{_, In}, {_, Out}} = erlang:statistics(io),
    {Uptime, _} = erlang:statistics(wall_clock),
    Node = {unicode:characters_to_binary(erlang:system_info(otp_release)),
            erlang:system_info(schedulers_online), Uptime,
            erlang:system_info(process_count), erlang:system_info(process_limit),
            erlang:system_info(port_count), erlang:system_info(atom_count),
            erlang:statistics(run_queue), In, Out, erlang:memory(), nodes(connected)},
    Done = erlang:monotonic_time(microsecond),
    {Node, length(Pids), Woke - Slept, Slept - Began + Done - Woke, Rows}
end)().
"""


_UNTRANSLATED = (Atom("proc_lib"), Atom("init_p"), 5)
"""The result of translate_initial_call/1 for processes not started by proc_lib."""


class Sort(enum.Enum):
    """The sort order of processes."""

    REDUCTIONS = "reductions"
    MEMORY = "memory"
    MAILBOX = "mailbox"

    @property
    def column(self) -> int:
        """The column in the tuples of the question, from 1."""
        return list(Sort).index(self) + 2


class Process(NamedTuple):
    """A process in the answer."""

    pid: Pid
    reductions: int
    """Reductions in the sampled time."""

    memory: int
    """Bytes."""

    mailbox: int
    """The number of queued messages."""

    translated: Any
    """The initial function, according to proc_lib."""

    told: Any
    """The result of process_info/2, or `undefined` if the process has ended."""

    @property
    def title(self) -> Term:
        """The registered name, or the initial function."""
        told = self._told
        name = told.get("registered_name")
        if isinstance(name, Atom):
            return name
        return told.get("initial_call") if self.translated == _UNTRANSLATED else self.translated

    @property
    def doing(self) -> Term:
        """The current function, or None if the process has ended."""
        return self._told.get("current_function")

    @property
    def _told(self) -> dict[str, Term]:
        pairs = self.told if isinstance(self.told, list) else []
        return {
            pair[0]: pair[1]
            for pair in pairs
            if isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], Atom)
        }


class Figures(NamedTuple):
    """Figures of the whole node."""

    release: str
    schedulers: int
    uptime: int
    """Milliseconds."""

    processes: int
    process_limit: int
    ports: int
    atoms: int
    run_queue: int
    """Processes and ports that are ready to run, in all run queues."""

    bytes_in: int
    """Bytes of all ports, including distribution over TCP."""

    bytes_out: int
    memory: list[tuple[Atom, int]]
    """Bytes by purpose."""

    nodes: list[Atom]
    """All connected nodes, including hidden ones."""


class _Answer(NamedTuple):
    figures: Figures
    seen: int
    window: int
    cost: int
    rows: list[Process]


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of a BEAM node."""

    figures: Figures
    seen: int
    """The number of examined processes."""

    window: float
    """The seconds for which reductions were counted."""

    cost: float
    """The seconds that the node spent on the sample."""

    rows: Sequence[Process]


class NoBeam(Problem):
    """The node cannot be sampled: it lacks the functions, or its answer is unexpected."""

    def __init__(self, text: str) -> None:
        super().__init__(ExitCode.NO, text)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.text,), dict(self.__dict__)


class _NoErlang(NoBeam):
    """The function does not exist on the node."""


class Sampler:
    """Takes samples of a node."""

    def __init__(self, node: Node, peer: str, timeout: float) -> None:
        """`timeout` is the limit in seconds for an answer, in addition to the sampled time."""
        self._node = node
        self._peer = peer
        self._timeout = timeout
        self._is_python = False
        self._question: Term | None = None
        self._cost = 0.0

    async def look(self, window: float, sort: Sort, count: int) -> Sample | PythonSample:
        """Returns the first `count` processes in the order `sort`.

        The sampled time is `window` seconds, or longer if SHARE requires it. Raises NoBeam, and
        what Node.call raises.
        """
        if not self._is_python:
            try:
                return await self._look_at_beam(window, sort, count)
            except _NoErlang:
                sample = await self._look_at_python(window)
                self._is_python = True
                return sample
        return await self._look_at_python(window)

    async def _look_at_python(self, window: float) -> PythonSample:
        before = await self._status()
        await asyncio.sleep(window)
        return compared(before, await self._status())

    async def _status(self) -> Status:
        answer = await self._call("quicdist", "status")
        try:
            return read_status(answer)
        except TermError as error:
            raise NoBeam(f"{self._peer} answered with an unexpected term: {error}") from None

    async def _look_at_beam(self, window: float, sort: Sort, count: int) -> Sample:
        window = max(window, self._cost * SHARE)
        bindings = {
            "Column": sort.column,
            "Count": count,
            "Most": MOST_PROCESSES,
            "Window": int(window * 1000),
        }
        terms = [(Atom(name), value) for name, value in bindings.items()]
        question = self._question or await self._parsed()
        value = await self._call("erl_eval", "exprs", question, terms, wait=window)
        sample = _read(self._peer, value)
        self._question = question
        self._cost = sample.cost
        return sample

    async def _parsed(self) -> Term:
        tokens = await self._call("erl_scan", "string", list(_QUESTION.encode()))
        match tokens:
            case ("ok", list(found), _):
                parsed = await self._call("erl_parse", "parse_exprs", found)
                if isinstance(parsed, tuple) and parsed[:1] == ("ok",) and len(parsed) == 2:
                    return parsed[1]
        raise NoBeam(f"{self._peer} cannot parse the expression of quicdist top")

    async def _call(self, module: str, function: str, *args: Term, wait: float = 0) -> Term:
        try:
            return await self._node.call(
                self._peer, module, function, args, timeout=self._timeout + wait
            )
        except CallNotPossible:
            raise NoBeam(
                f"{self._peer} refuses {module}:{function}. `top` evaluates an expression on a "
                f"BEAM node: its policy must allow calls = {_NEEDED}, which lets a peer run any "
                "code"
            ) from None
        except CallError as error:
            match error.reason:
                case "undef" | ("exception", "undef", *_):
                    text = (
                        f"{self._peer} does not permit {module}:{function} to this node, or is "
                        "neither a BEAM node nor a Python node"
                    )
                    raise _NoErlang(text) from None
            raise


def _read(peer: str, value: Term) -> Sample:
    match value:
        case ("value", answer, _):
            try:
                read = from_term(answer, _Answer)
            except TermError as error:
                raise NoBeam(f"{peer} answered with an unexpected term: {error}") from None
            return Sample(
                read.figures, read.seen, max(read.window, 1) / 1e6, read.cost / 1e6, read.rows
            )
    raise NoBeam(f"{peer} answered with an unexpected term")
