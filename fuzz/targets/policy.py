"""Fuzz target for the gateway policy.

No input raises an error other than the policy's errors, and the node parses every frame that passes
as a message that the policy allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fuzz.targets.pieces import frames, handshakes, join, split
from quicdist.cluster.access_rules import is_runtime_message
from quicdist.cluster.policy import Mode, PeerRules, Policy
from quicdist.etf import Atom, Export, Fun, ImproperList, Pid, encode_bare
from quicdist.gateway.policy_filter import PolicyFilter
from quicdist.protocol.channel import MessageReceived
from quicdist.protocol.errors import DistError
from quicdist.protocol.packet import FramePacket, HandshakePacket
from quicdist.protocol.signals import (
    NO_TOKEN,
    Demonitor,
    Exit,
    Message,
    Monitor,
    SpawnRequest,
    Unlink,
    UnlinkAck,
)
from tests.gateway.filtered import OWN, PEER, Filtered, pid, reference
from tests.protocol import forms as ctl
from tests.protocol.talk import FORMS

RULES = PeerRules(nodes=("*",), names=("counter",), calls=("calc:*",), ping=False)
_FORMS = list(FORMS.values())
HANDSHAKE, LOG = 4, 8

_UNTIES = (Exit, Unlink, UnlinkAck)
"""Signals without effect between processes that are not linked or monitored."""

_FUNS = (Fun, Export)


def check(data: bytes) -> None:
    """Choice byte: bits 0-1 negotiated flags, 2 a handshake instead, 3 a policy that logs."""
    choice, pieces = split(data)
    policy = Policy((RULES,), Mode.LOG if choice & LOG else Mode.REFUSE)
    if choice & HANDSHAKE:
        shake(policy, pieces)
        return
    pair = Filtered(policy, flags=_FORMS[choice & 3])
    for piece in pieces:
        try:
            passage = pair.policy_filter.from_peer(FramePacket(piece))
        except DistError:
            return
        if policy.mode is Mode.LOG:
            assert passage.forward == FramePacket(piece)
        elif passage.forward is not None:
            read_by_the_node(pair, passage.forward.data)
        if passage.answer is not None:
            pair.peer.receive(passage.answer)


def shake(policy: Policy, pieces: list[bytes]) -> None:
    policy_filter = PolicyFilter(policy, OWN, dialed_peer=None)
    try:
        for piece in pieces:
            if piece[:1] == b"\0":
                policy_filter.from_node(HandshakePacket(piece[1:]))
            else:
                policy_filter.from_peer(HandshakePacket(piece[1:]))
    except DistError:
        pass


def read_by_the_node(pair: Filtered, frame: bytes) -> None:
    """Checks each passed frame against the policy as the node parses it."""
    try:
        events = pair.node.receive(FramePacket(frame))
    except DistError:
        return
    for event in events:
        if isinstance(event, MessageReceived):
            assert allowed(event), f"{event!r} passes"


def allowed(event: MessageReceived) -> bool:
    signal, payload = event.signal, event.payload
    if isinstance(signal, _UNTIES):
        return signal.to.node == OWN
    if isinstance(signal, Message):
        return (
            signal.token is NO_TOKEN
            and isinstance(signal.to, Atom)
            and not is_runtime_message(payload)
            and reaches(signal.to, payload)
            and not has_fun(payload)
        )
    if isinstance(signal, Monitor):
        return signal.to in ("counter", "rex", "net_kernel")
    if isinstance(signal, Demonitor):
        return isinstance(signal.to, Pid) or signal.to in ("counter", "rex", "net_kernel")
    if isinstance(signal, SpawnRequest):
        return (
            signal.token is NO_TOKEN
            and runs(signal.mfa, payload)
            and RULES.may_spawn_with(signal.options)
            and not has_fun(payload)
        )
    return False


def has_fun(term: object) -> bool:
    match term:
        case ImproperList(items=items, tail=tail):
            return has_fun(tail) or any(map(has_fun, items))
        case list() | tuple() | dict():
            inner = [*term.items()] if isinstance(term, dict) else term
            return any(map(has_fun, inner))
    return isinstance(term, _FUNS)


def runs(mfa: tuple[Atom, Atom, int], arguments: object) -> bool:
    if mfa[0] == "calc":
        return True
    before = {("execute_call", 4): 1, ("execute_cast", 3): 0}.get(mfa[1:])
    if mfa[0] != "erpc" or before is None or not isinstance(arguments, list):
        return False
    return len(arguments) > before and arguments[before] == "calc"


def reaches(name: object, payload: object) -> bool:
    if name == "counter":
        return True
    if name not in ("rex", "net_kernel") or type(payload) is not tuple:
        return False
    request = payload[-1]
    if request == "features_request":
        return len(payload) == 2
    if type(request) is not tuple or len(request) < 2:
        return False
    if request[0] in ("sbcast", "send"):
        passed_on = len(request) == 3 and request[1] == "counter"
        return passed_on and not is_runtime_message(request[2])
    return len(request) in (5, 7) and request[1] == "calc"


def fragment(tag: bytes, number: int) -> bytes:
    return b"\x83" + tag + (1).to_bytes(8, "big") + number.to_bytes(8, "big")


def seeds() -> Iterator[bytes]:
    """Yields recorded handshakes and frames, and messages of each kind that a rule covers."""
    for talk in handshakes():
        said = [bytes((int(one.dialed),)) + one.packet.data for one in talk]
        yield join(HANDSHAKE, said)
    for batch in frames():
        yield join(1, batch)
        yield join(1 | LOG, batch)
    sender, server, ref = pid(PEER), pid(OWN), reference(PEER)
    call, calc = Atom("call"), Atom("calc")
    asked = (Atom("$gen_call"), (sender, ref), (call, calc, Atom("add"), [1], sender))
    erpc = (Atom("erpc"), Atom("execute_call"), 4)
    messages: list[tuple[ctl.Control, Any]] = [
        (ctl.RegSend(sender, Atom("counter")), (Atom("system"), (sender, ref), 1)),
        (ctl.RegSend(sender, Atom("rex")), asked),
        (ctl.RegSend(sender, Atom("rex")), (sender, (call, Atom("os"), Atom("cmd"), [1], sender))),
        (ctl.RegSend(sender, Atom("rex")), (sender, Atom("features_request"))),
        (ctl.RegSend(sender, Atom("rex")), (sender, (Atom("sbcast"), Atom("counter"), 1))),
        (ctl.RegSend(sender, Atom("rex")), (Atom("$gen_cast"), (Atom("cast"), calc, calc, []))),
        (
            ctl.RegSend(sender, Atom("net_kernel")),
            (Atom("$gen_call"), sender, (Atom("is_auth"), 1)),
        ),
        (ctl.SpawnRequest(ref, sender, sender, erpc, []), [ref, calc, Atom("add"), [1]]),
        (ctl.SpawnRequest(ref, sender, sender, (calc, calc, 1), []), [1]),
        (ctl.RegSendTT(sender, Atom("counter"), Atom("token")), 1),
        (ctl.SpawnRequestTT(ref, sender, sender, (calc, calc, 1), [Atom("link")], 1), [1]),
        (ctl.RegSend(sender, Atom("counter")), (Export(calc, call, 1), [Export(calc, call, 1)])),
        (ctl.SendSender(sender, server), 1),
        (ctl.AltactSigSend(ctl.ALTACT_NAME, sender, Atom("counter")), 1),
        (ctl.AliasSend(sender, reference(OWN)), 1),
    ]
    for control, payload in messages:
        head, body = encode_bare(control.to_tuple()), encode_bare(payload)
        yield join(1, [b"\x83D\0" + head + body])
        for cut in (0, 1, 2, len(body) - 1):
            first = fragment(b"E", 2) + b"\0" + head + body[:cut]
            yield join(1, [first, fragment(b"F", 1) + body[cut:]])
    for single in (ctl.MonitorP(sender, Atom("counter"), ref), ctl.Link(sender, server)):
        yield join(1, [b"\x83D\0" + encode_bare(single.to_tuple())])
        yield join(0, [b"p\x83" + encode_bare(single.to_tuple())])
