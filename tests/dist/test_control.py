"""Control messages to and from tuples: the manual's numbers, arities and types."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.dist import control as c
from quicdist.dist.errors import ProtocolError
from quicdist.etf import Atom, Pid, Reference
from tests.dist import strategies

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


@pytest.mark.parametrize(("control", "values", "payload"), MANUAL)
def test_as_the_manual_has_it(control: c.Control, values: tuple[Any, ...], payload: bool) -> None:
    assert control.to_tuple() == values
    assert c.parse(values) == control
    assert control.HAS_PAYLOAD is payload


def test_the_table_above_is_complete() -> None:
    assert [type(control) for control, _, _ in MANUAL] == list(c.ALL)
    assert [cls.OP for cls in c.ALL] == sorted(cls.OP for cls in c.ALL)
    assert {*strategies.FIELDS, c.AltactSigSend} == set(c.ALL)


@given(strategies.controls)
def test_any_control_message_survives_its_tuple(control: c.Control) -> None:
    assert c.parse(control.to_tuple()) == control


@pytest.mark.parametrize(("control", "values", "_payload"), MANUAL)
def test_one_element_too_few_is_refused(
    control: c.Control, values: tuple[Any, ...], _payload: bool
) -> None:
    if len(values) > 1:
        with pytest.raises(ProtocolError, match=type(control).__name__):
            c.parse(values[:-1])


@pytest.mark.parametrize(("control", "values", "_payload"), MANUAL)
def test_one_element_too_many_is_refused_but_for_altact(
    control: c.Control, values: tuple[Any, ...], _payload: bool
) -> None:
    if isinstance(control, c.AltactSigSend):
        assert c.parse((*values, 1)) == control
    else:
        with pytest.raises(ProtocolError, match=type(control).__name__):
            c.parse((*values, 1))


@pytest.mark.parametrize(("control", "values", "_payload"), MANUAL)
def test_elements_of_another_type_are_refused(
    control: c.Control, values: tuple[Any, ...], _payload: bool
) -> None:
    for index, value in enumerate(values[1:], 1):
        if value in (REASON, TOKEN, EMPTY):
            continue
        with pytest.raises(ProtocolError, match=type(control).__name__):
            c.parse((*values[:index], 1.5, *values[index + 1 :]))


@pytest.mark.parametrize("values", [(), (NAME,), (True, ME, YOU), [1, ME, YOU], 1, (1.0, ME, YOU)])
def test_what_is_no_control_message(values: Any) -> None:
    with pytest.raises(ProtocolError, match="operation number"):
        c.parse(values)


@given(st.integers().filter(lambda op: op not in {cls.OP for cls in c.ALL}))
def test_unknown_operations_are_reported(op: int) -> None:
    unknown = c.parse((op, ME, 2))
    assert unknown == c.UnknownControl(op, (ME, 2))
    assert unknown.to_tuple() == (op, ME, 2)


def test_a_process_may_be_registered_as_true() -> None:
    assert c.parse((6, ME, EMPTY, True)) == c.RegSend(ME, Atom("true"))
    assert c.parse((19, ME, False, REF)) == c.MonitorP(ME, Atom("false"), REF)
    spawn = c.parse((29, REF, ME, YOU, (True, False, 0), []))
    assert isinstance(spawn, c.SpawnRequest)
    assert spawn.mfa == (Atom("true"), Atom("false"), 0)
    assert all(type(name) is Atom for name in spawn.mfa[:2])
    assert c.parse((37, 8, ME, True)) == c.AltactSigSend(8, ME, Atom("true"))


@pytest.mark.parametrize("number", [0, 2**64, -1, True, NAME])
def test_unlink_ids_have_64_bits_and_are_not_zero(number: Any) -> None:
    for op in (35, 36):
        with pytest.raises(ProtocolError):
            c.parse((op, number, ME, YOU))


@pytest.mark.parametrize("mfa", [(1, NAME, 2), (NAME, NAME), (NAME, NAME, -1), (NAME, NAME, True)])
def test_entry_points_are_module_function_arity(mfa: Any) -> None:
    with pytest.raises(ProtocolError, match="Module, Function, Arity"):
        c.parse((29, REF, ME, YOU, mfa, []))


def test_spawn_reply_flags_are_in_range() -> None:
    with pytest.raises(ProtocolError, match="out of range"):
        c.parse((31, REF, ME, 1 << 27, YOU))


def test_altact_flags_of_tomorrow_are_ignored() -> None:
    assert c.parse((37, 1 << 100 | 5, ME, REF)) == c.AltactSigSend(5, ME, REF)


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
    with pytest.raises(ProtocolError, match="AltactSigSend"):
        c.parse(values)
