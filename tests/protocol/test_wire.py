"""Signals and the control messages that carry them: the manual's numbers, arities and types."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.targets.pieces import messages
from quicdist.etf import Atom, Pid, Reference
from quicdist.protocol import signals
from quicdist.protocol.errors import ProtocolError, UsageError
from quicdist.protocol.flags import DEFAULT_FLAGS, Flag
from quicdist.protocol.signals import NO_PAYLOAD, Message, SpawnRequest, UnknownSignal
from quicdist.protocol.wire import FOLLOWS, OPERATIONS, WireForms, parse
from tests.protocol import forms as c
from tests.protocol import strategies

NODE = Atom("a@b")
ME = Pid(NODE, 1, 0, 7)
YOU = Pid(NODE, 2, 0, 7)
REF = Reference(NODE, (1, 2, 3), 7)
TOKEN = (0, 1, ME, 2, 3)
NAME = Atom("name")
REASON = (Atom("shutdown"), 1)
MFA = (Atom("m"), Atom("f"), 2)
EMPTY = Atom("")

# ERTS manual, "Protocol between Connected Nodes", in its order.
MANUAL: list[tuple[c.Control, tuple[Any, ...], bool]] = [
    (c.Link(ME, YOU), (1, ME, YOU), False),
    (c.Send(YOU), (2, EMPTY, YOU), True),
    (c.Exit(ME, YOU, REASON), (3, ME, YOU, REASON), False),
    (c.Unlink(ME, YOU), (4, ME, YOU), False),
    (c.NodeLink(), (5,), False),
    (c.RegSend(ME, NAME), (6, ME, EMPTY, NAME), True),
    (c.GroupLeader(ME, YOU), (7, ME, YOU), False),
    (c.Exit2(ME, YOU, REASON), (8, ME, YOU, REASON), False),
    (c.SendTT(YOU, TOKEN), (12, EMPTY, YOU, TOKEN), True),
    (c.ExitTT(ME, YOU, TOKEN, REASON), (13, ME, YOU, TOKEN, REASON), False),
    (c.RegSendTT(ME, NAME, TOKEN), (16, ME, EMPTY, NAME, TOKEN), True),
    (c.Exit2TT(ME, YOU, TOKEN, REASON), (18, ME, YOU, TOKEN, REASON), False),
    (c.MonitorP(ME, YOU, REF), (19, ME, YOU, REF), False),
    (c.DemonitorP(ME, NAME, REF), (20, ME, NAME, REF), False),
    (c.MonitorPExit(NAME, YOU, REF, REASON), (21, NAME, YOU, REF, REASON), False),
    (c.SendSender(ME, YOU), (22, ME, YOU), True),
    (c.SendSenderTT(ME, YOU, TOKEN), (23, ME, YOU, TOKEN), True),
    (c.PayloadExit(ME, YOU), (24, ME, YOU), True),
    (c.PayloadExitTT(ME, YOU, TOKEN), (25, ME, YOU, TOKEN), True),
    (c.PayloadExit2(ME, YOU), (26, ME, YOU), True),
    (c.PayloadExit2TT(ME, YOU, TOKEN), (27, ME, YOU, TOKEN), True),
    (c.PayloadMonitorPExit(ME, YOU, REF), (28, ME, YOU, REF), True),
    (c.SpawnRequest(REF, ME, YOU, MFA, []), (29, REF, ME, YOU, MFA, []), True),
    (c.SpawnRequestTT(REF, ME, YOU, MFA, [], TOKEN), (30, REF, ME, YOU, MFA, [], TOKEN), True),
    (c.SpawnReply(REF, ME, 3, YOU), (31, REF, ME, 3, YOU), False),
    (c.SpawnReplyTT(REF, ME, 0, NAME, TOKEN), (32, REF, ME, 0, NAME, TOKEN), False),
    (c.AliasSend(ME, REF), (33, ME, REF), True),
    (c.AliasSendTT(ME, REF, TOKEN), (34, ME, REF, TOKEN), True),
    (c.UnlinkId(9, ME, YOU), (35, 9, ME, YOU), False),
    (c.UnlinkIdAck(9, ME, YOU), (36, 9, ME, YOU), False),
    (c.AltactSigSend(c.ALTACT_PRIO, ME, YOU), (37, 1, ME, YOU), True),
]


BEFORE_28 = DEFAULT_FLAGS & ~Flag.ALTACT_SIG
OLD = BEFORE_28 & ~Flag.EXIT_PAYLOAD & ~Flag.SEND_SENDER


@pytest.mark.parametrize(("control", "values", "payload"), MANUAL)
def test_as_the_manual_has_it(control: c.Control, values: tuple[Any, ...], payload: bool) -> None:
    assert control.to_tuple() == values
    assert control.HAS_PAYLOAD is payload
    _, inline = parse(values)
    assert (inline is FOLLOWS) is payload
    if not payload:
        assert inline == getattr(control, "reason", NO_PAYLOAD)


@pytest.mark.parametrize(("control", "values", "payload"), MANUAL)
def test_each_form_is_written_where_it_is_negotiated(
    control: c.Control, values: tuple[Any, ...], payload: bool
) -> None:
    signal, inline = parse(values)
    said = REASON if inline is FOLLOWS else inline
    written = [
        WireForms(flags).of(signal, said)
        for flags in (OLD, BEFORE_28, DEFAULT_FLAGS)
        if not isinstance(control, c.AltactSigSend) or Flag.ALTACT_SIG in flags
    ]
    assert (values, said if payload else NO_PAYLOAD) in written


def test_the_table_above_is_complete() -> None:
    assert [type(control) for control, _, _ in MANUAL] == list(c.ALL)
    assert {cls.OP for cls in c.ALL} - {c.NodeLink.OP} == OPERATIONS
    assert {*strategies.FIELDS, c.AltactSigSend, c.NodeLink} == set(c.ALL)
    meant = {type(parse(values)[0]) for _, values, _ in MANUAL}
    assert meant == {*signals.ALL, UnknownSignal}


ALL_FLAGS = st.sampled_from([DEFAULT_FLAGS, BEFORE_28, BEFORE_28 & ~Flag.EXIT_PAYLOAD])


@given(strategies.controls, strategies.terms, ALL_FLAGS)
def test_a_signal_means_the_same_in_every_form(
    control: c.Control, payload: Any, flags: Flag
) -> None:
    signal, inline = parse(control.to_tuple())
    said = payload if inline is FOLLOWS else inline
    by_altact = isinstance(signal, Message | signals.ExitSignal) and signal.is_priority
    to_pid = isinstance(getattr(signal, "to", None), Pid)
    is_exit = isinstance(signal, signals.ExitSignal)
    if Flag.ALTACT_SIG not in flags and is_exit and (by_altact or not to_pid):
        with pytest.raises(UsageError):
            WireForms(flags).of(signal, said)
        return
    values, behind = WireForms(flags).of(signal, said)
    again, inline = parse(values)
    if Flag.ALTACT_SIG not in flags and by_altact:
        # Priority is lost if the peer does not support it.
        assert isinstance(signal, Message)
        assert again == replace(signal, is_priority=False)
    else:
        assert again == signal
    assert (behind if inline is FOLLOWS else inline) is said


def test_recorded_control_messages_are_written_as_they_were() -> None:
    count = 0
    for control, *_ in messages():
        signal, inline = parse(control)
        values, _ = WireForms(BEFORE_28).of(signal, 1 if inline is FOLLOWS else inline)
        assert values == control
        count += 1
    assert count > 50


def test_an_alias_is_reached_by_the_form_that_the_peer_has() -> None:
    to_alias = Message(ME, REF)
    assert WireForms(DEFAULT_FLAGS).ahead(to_alias) == (37, 4, ME, REF)
    assert WireForms(BEFORE_28).ahead(to_alias) == (33, ME, REF)


def test_a_payload_goes_with_signals_that_have_one() -> None:
    forms = WireForms(DEFAULT_FLAGS)
    with pytest.raises(UsageError, match="Message takes a payload"):
        forms.of(Message(ME, YOU), NO_PAYLOAD)
    with pytest.raises(UsageError, match="Link takes no payload"):
        forms.of(signals.Link(ME, YOU), 1)


@pytest.mark.parametrize(("control", "values", "_payload"), MANUAL)
def test_one_element_too_few_is_refused(
    control: c.Control, values: tuple[Any, ...], _payload: bool
) -> None:
    if len(values) > 1:
        with pytest.raises(ProtocolError, match=f"[(]{values[0]}[)]"):
            parse(values[:-1])


@pytest.mark.parametrize(("control", "values", "_payload"), MANUAL)
def test_one_element_too_many_is_refused_but_for_altact(
    control: c.Control, values: tuple[Any, ...], _payload: bool
) -> None:
    if isinstance(control, c.AltactSigSend):
        assert parse((*values, 1)) == parse(values)
    elif not isinstance(control, c.NodeLink):
        with pytest.raises(ProtocolError, match=f"[(]{values[0]}[)]"):
            parse((*values, 1))


@pytest.mark.parametrize(("control", "values", "_payload"), MANUAL)
def test_elements_of_another_type_are_refused(
    control: c.Control, values: tuple[Any, ...], _payload: bool
) -> None:
    for index, value in enumerate(values[1:], 1):
        if value in (REASON, TOKEN, EMPTY):
            continue
        with pytest.raises(ProtocolError, match=f"[(]{values[0]}[)]"):
            parse((*values[:index], 1.5, *values[index + 1 :]))


@pytest.mark.parametrize("values", [(), (NAME,), (True, ME, YOU), [1, ME, YOU], 1, (1.0, ME, YOU)])
def test_what_is_no_control_message(values: Any) -> None:
    with pytest.raises(ProtocolError, match="operation number"):
        parse(values)


@given(st.integers().filter(lambda op: op not in OPERATIONS))
def test_unknown_operations_are_reported(op: int) -> None:
    unknown = UnknownSignal(op, (ME, 2))
    assert parse((op, ME, 2)) == (unknown, NO_PAYLOAD)
    assert WireForms(DEFAULT_FLAGS).of(unknown, NO_PAYLOAD) == ((op, ME, 2), NO_PAYLOAD)


def test_a_process_may_be_registered_as_true() -> None:
    assert parse((6, ME, EMPTY, True))[0] == Message(ME, Atom("true"))
    assert parse((19, ME, False, REF))[0] == signals.Monitor(ME, Atom("false"), REF)
    spawn = parse((29, REF, ME, YOU, (True, False, 0), []))[0]
    assert isinstance(spawn, SpawnRequest)
    assert spawn.mfa == (Atom("true"), Atom("false"), 0)
    assert all(type(name) is Atom for name in spawn.mfa[:2])
    assert parse((37, 8, ME, True))[0] == Message(ME, Atom("true"))


@pytest.mark.parametrize("number", [0, 2**64, -1, True, NAME])
def test_unlink_ids_have_64_bits_and_are_not_zero(number: Any) -> None:
    for op in (35, 36):
        with pytest.raises(ProtocolError):
            parse((op, number, ME, YOU))


@pytest.mark.parametrize("mfa", [(1, NAME, 2), (NAME, NAME), (NAME, NAME, -1), (NAME, NAME, True)])
def test_entry_points_are_module_function_arity(mfa: Any) -> None:
    with pytest.raises(ProtocolError, match="Module, Function, Arity"):
        parse((29, REF, ME, YOU, mfa, []))


def test_spawn_reply_flags_are_in_range() -> None:
    with pytest.raises(ProtocolError, match="out of range"):
        parse((31, REF, ME, 1 << 27, YOU))


def test_altact_flags_of_tomorrow_are_ignored() -> None:
    assert parse((37, 1 << 100 | 5, ME, REF)) == (Message(ME, REF, is_priority=True), FOLLOWS)


@pytest.mark.parametrize(
    "values",
    [
        (37, 4, ME, YOU),
        (37, 8, ME, YOU),
        (37, 12, ME, REF),
        (37, 0, ME, NAME),
        (37, 2, ME, YOU),
        (37, -1, ME, YOU),
        (37, 0, NAME, YOU),
    ],
)
def test_altact_receivers_fit_their_flags(values: tuple[Any, ...]) -> None:
    with pytest.raises(ProtocolError, match="ALTACT_SIG_SEND"):
        parse(values)
