"""What `quicdist send` makes of the answers to its monitors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.send import _check_exists
from quicdist.errors import ReceiveTimeout
from quicdist.etf import Atom
from quicdist.runtime.mailbox import Mailbox


class Answered:
    """A mailbox whose monitors, numbered from 0, end in the given order and for these reasons."""

    def __init__(self, *downs: tuple[int, str]) -> None:
        self.downs = [("DOWN", number, "process", None, Atom(reason)) for number, reason in downs]
        self.monitors = 0
        self.ended: list[int] = []

    def monitor(self, to: object) -> int:
        self.monitors += 1
        return self.monitors - 1

    def demonitor(self, monitor: int) -> None:
        self.ended.append(monitor)

    async def receive(self, match: Callable[[Any], bool], *, timeout: float) -> object:
        found = next(filter(match, self.downs), None)
        if found is None:
            raise ReceiveTimeout
        return found


def check(me: Answered) -> None:
    asyncio.run(_check_exists(cast(Mailbox, me), "4433@127.0.0.1", ("box", "4433@127.0.0.1"), 1.0))


def test_a_process_exists_if_only_the_second_monitor_ends() -> None:
    me = Answered((1, "noproc"))
    check(me)
    assert me.ended == [0]


def test_a_process_does_not_exist_if_the_first_monitor_ends_first() -> None:
    with pytest.raises(Problem, match="there is no process box") as failed:
        check(Answered((0, "noproc"), (1, "noproc")))
    assert failed.value.code is ExitCode.NO


@pytest.mark.parametrize(
    "downs", [(), ((0, "noconnection"), (1, "noconnection")), ((1, "noconnection"),)]
)
def test_without_an_answer_nothing_is_known(downs: tuple[tuple[int, str], ...]) -> None:
    with pytest.raises(Problem, match="does not answer; nothing was sent") as failed:
        check(Answered(*downs))
    assert failed.value.code is ExitCode.TIMEOUT
