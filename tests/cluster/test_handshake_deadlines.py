"""What a handshake does without the peer, and when."""

from __future__ import annotations

import math

from quicdist.cluster.handshake_deadlines import Due, HandshakeDeadlines


def test_a_handshake_that_is_not_finished_in_time_ends_once() -> None:
    deadlines = HandshakeDeadlines(7.0, 100.0)
    assert deadlines.due == 107.0
    assert deadlines.look(106.9) is Due.NOTHING
    assert deadlines.look(107.0) is Due.TIMEOUT
    assert deadlines.look(108.0) is Due.NOTHING
    assert deadlines.due == math.inf


def test_a_finished_handshake_has_no_deadline() -> None:
    deadlines = HandshakeDeadlines(7.0, 100.0)
    deadlines.delay_answer(1.0, 100.0)
    deadlines.finished()
    assert deadlines.due == math.inf
    assert deadlines.look(1e9) is Due.NOTHING


def test_a_delayed_answer_does_not_extend_the_handshake() -> None:
    deadlines = HandshakeDeadlines(7.0, 100.0)
    deadlines.delay_answer(2.0, 103.0)
    assert deadlines.due == 105.0
    assert deadlines.look(105.0) is Due.ANSWER
    assert deadlines.due == 107.0
    assert deadlines.look(107.0) is Due.TIMEOUT


def test_a_handshake_whose_answer_is_delayed_too_long_ends_first() -> None:
    deadlines = HandshakeDeadlines(7.0, 100.0)
    deadlines.delay_answer(20.0, 103.0)
    assert deadlines.look(110.0) is Due.TIMEOUT
    deadlines.finished()
    assert deadlines.look(200.0) is Due.NOTHING, "no challenge after the end"


def test_what_was_due_earlier_is_told_first() -> None:
    deadlines = HandshakeDeadlines(7.0, 100.0)
    deadlines.delay_answer(2.0, 103.0)
    told = [deadlines.look(200.0) for _ in range(3)]
    assert told == [Due.ANSWER, Due.TIMEOUT, Due.NOTHING]


def test_after_a_refusal_only_the_close_is_due() -> None:
    deadlines = HandshakeDeadlines(7.0, 100.0)
    deadlines.delay_answer(2.0, 100.0)
    deadlines.refused(101.0)
    assert deadlines.due == 101.5, "the refusal has time to arrive"
    assert deadlines.look(101.4) is Due.NOTHING
    assert deadlines.look(110.0) is Due.CLOSE
    assert deadlines.due == math.inf
