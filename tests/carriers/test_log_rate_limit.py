"""Log lines caused by unauthenticated peers are rate limited, and omitted lines are counted."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from quicdist.carriers.log_rate_limit import MOST, PERIOD, LogRateLimit


class Log:
    """A logger with the filter and a simulated clock."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.logger = logging.getLogger("tests.few_lines")
        self.logger.addFilter(LogRateLimit("refused", "junk"))

    def say(self, event: str, now: float, times: int = 1) -> int:
        """Logs distinct messages and returns the number of lines emitted."""
        before = len(self.lines)
        for number in range(times):
            self.say_that(f"{event} at {now}: {number}", event, now)
        return len(self.lines) - before

    def say_that(self, text: str, event: str, now: float) -> None:
        name, level = self.logger.name, logging.WARNING
        record = self.logger.makeRecord(name, level, "", 0, text, (), None)
        record.created, record.event = now, event
        self.logger.handle(record)


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    handler = logging.Handler()
    handler.emit = lambda record: log.lines.append(record.getMessage())  # type: ignore[method-assign]
    log.logger.addHandler(handler)
    yield log
    log.logger.removeHandler(handler)
    log.logger.filters.clear()


def test_so_many_lines_in_a_period_and_then_how_many_more(log: Log) -> None:
    assert log.say("refused", 100.0, MOST + 7) == MOST
    assert log.say("refused", 100.0 + PERIOD / 2, 1000) == 0
    assert log.say("refused", 100.0 + PERIOD) == 2
    text = "1007 more lines like the next one (refused) were dropped in the last 10 s"
    assert log.lines[-2:] == [text, f"refused at {100.0 + PERIOD}: 0"]
    assert log.say("refused", 101.0 + PERIOD, MOST) == MOST - 1


def test_as_many_as_there_may_be_leave_nothing_to_tell(log: Log) -> None:
    assert log.say("refused", 100.0, MOST) == MOST
    assert log.say("refused", 100.0 + PERIOD) == 1


def test_what_has_just_been_said_is_not_said_again(log: Log) -> None:
    for text in ("a is down", "a is down", "a is down", "b is down", "a is down"):
        log.say_that(text, "refused", 100.0)
    assert log.lines == ["a is down", "b is down", "a is down"]
    log.say_that("a is down", "refused", 100.0 + PERIOD)
    assert log.lines[3:] == [
        "2 more lines like the next one (refused) were dropped in the last 10 s",
        "a is down",
    ]


def test_each_kind_for_itself_and_others_always(log: Log) -> None:
    log.say("refused", 100.0, MOST)
    assert log.say("junk", 100.0, MOST + 1) == MOST
    assert log.say("other", 100.0, 5 * MOST) == 5 * MOST


def test_a_clock_that_was_set_back_silences_nobody(log: Log) -> None:
    log.say("refused", 1e9, MOST + 1)
    assert log.say("refused", 100.0) == 2


def test_what_strangers_cause_is_bounded_in_every_logger() -> None:
    bounded = {
        "quicdist.quic": {"not_believed", "distrusted"},
        "quicdist.tls": {"not_believed"},
        "quicdist.epmd": {"epmd_full", "epmd_client_dropped", "epmd_refused"},
        "quicdist.node": {
            *("peer_refused", "not_believed", "not_allowed", "payload_refused"),
            *("answer_refused", "answer_failed", "call_failed", "call_raised", "call_refused"),
            "cleanup_failed",
        },
        "quicdist.access": {"access_refused"},
        "quicdist.gateway": {"not_believed", "refused", "relay_not_up", "relay_refused"},
    }
    import quicdist.carriers.tls
    import quicdist.gateway.gateway
    import quicdist.node.node

    assert quicdist
    for name, events in bounded.items():
        filters = logging.getLogger(name).filters
        limits = [one.events for one in filters if isinstance(one, LogRateLimit)]
        assert sorted(event for one in limits for event in one) == sorted(events)
