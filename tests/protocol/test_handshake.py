"""The state table of the handshake: only the listed events change the state."""

from __future__ import annotations

import inspect
import re

import pytest

from quicdist.protocol import handshake
from quicdist.protocol.flags import DEFAULT_FLAGS, Flag
from quicdist.protocol.handshake import (
    TRANSITIONS,
    Handshake,
    LocalNode,
    Move,
    SendHandshake,
    State,
    first_message,
)
from quicdist.protocol.role import Role
from tests.protocol.talk import acceptor, initiator

ENDS = {State.CONNECTED, State.CLOSED}


def reached_from(state: State) -> set[State]:
    found: set[State] = set()
    waiting = [state]
    while waiting:
        for follower in TRANSITIONS[waiting.pop()].values():
            if follower not in found:
                found.add(follower)
                waiting.append(follower)
    return found


def test_each_state_has_its_row_and_each_move_is_made_somewhere() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {move for row in TRANSITIONS.values() for move in row} == set(Move)
    assert {state for state in State if not TRANSITIONS[state]} == ENDS


@pytest.mark.parametrize("state", [state for state in State if state not in ENDS])
def test_each_state_can_still_lead_to_a_connection_and_never_back(state: State) -> None:
    assert State.CONNECTED in reached_from(state)
    assert state not in reached_from(state)


@pytest.mark.parametrize(("role", "start"), [(Role.DIALER, State.NEW), (Role.LISTENER, State.NAME)])
def test_a_role_never_gets_into_the_states_of_the_other(role: Role, start: State) -> None:
    other = State.NAME if role is Role.DIALER else State.NEW
    session = initiator() if role is Role.DIALER else acceptor()
    assert session._handshake.state is start
    mine = reached_from(start) | {start}
    assert mine & (reached_from(other) | {other}) == ENDS


def test_the_table_alone_leads_from_state_to_state() -> None:
    source = inspect.getsource(handshake)
    assigned = re.findall(r"self\.state = (.*)", source)
    beginning = "State.NEW if role is Role.DIALER else State.NAME"
    assert sorted(assigned) == sorted([beginning, "State.CLOSED", "TRANSITIONS[self.state][move]"])


@pytest.mark.parametrize("flags", [DEFAULT_FLAGS, DEFAULT_FLAGS | Flag.NAME_ME])
@pytest.mark.parametrize("binding", [b"", b"exported"])
@pytest.mark.parametrize("early", [False, True])
def test_the_first_message_is_known_before_the_handshake(
    flags: Flag, binding: bytes, early: bool
) -> None:
    name = "here" if Flag.NAME_ME in flags else "a@here"
    local = LocalNode(name, 7, flags, "secret")
    dialer = Handshake(local, Role.DIALER, challenge=1, binding=binding, early_proofs=early)
    [first] = dialer.start()
    assert first == SendHandshake(first_message(local, binding, early_proofs=early))
