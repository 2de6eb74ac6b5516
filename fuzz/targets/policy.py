"""A gateway's policy: no bytes raise more than its own errors, and nothing that it lets pass is
read by the node as what it does not allow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fuzz.targets.pieces import frames, handshakes, join, split
from quicdist.dist import control as ctl
from quicdist.dist.errors import DistError
from quicdist.dist.packet import FramePacket, HandshakePacket
from quicdist.dist.session import MessageReceived
from quicdist.etf import Atom, encode_bare
from quicdist.gateway.guard import Guard
from quicdist.gateway.policy import Mode, PeerRules, Policy
from tests.dist.talk import FORMS
from tests.gateway.guarded import OWN, PEER, Guarded, pid, reference

RULES = PeerRules(nodes=("*",), names=("counter",), calls=("calc:*",), ping=False)
_FORMS = list(FORMS.values())
HANDSHAKE, LOG = 4, 8

_ANSWERS = (
    *(ctl.Exit, ctl.ExitTT, ctl.PayloadExit, ctl.PayloadExitTT, ctl.Unlink, ctl.UnlinkId),
    *(ctl.UnlinkIdAck, ctl.DemonitorP, ctl.MonitorPExit, ctl.PayloadMonitorPExit),
    *(ctl.SpawnReply, ctl.SpawnReplyTT, ctl.AliasSend, ctl.AliasSendTT),
)


def check(data: bytes) -> None:
    """The choice: bits 0 and 1 what is negotiated, 2 a handshake instead, 3 a policy that logs."""
    choice, pieces = split(data)
    policy = Policy((RULES,), Mode.LOG if choice & LOG else Mode.REFUSE)
    if choice & HANDSHAKE:
        shake(policy, pieces)
        return
    pair = Guarded(policy, flags=_FORMS[choice & 3])
    for piece in pieces:
        try:
            passage = pair.guard.from_peer(FramePacket(piece))
        except DistError:
            return
        if policy.mode is Mode.LOG:
            assert passage.forward == FramePacket(piece)
        elif passage.forward is not None:
            read_by_the_node(pair, passage.forward.data)
        if passage.answer is not None:
            pair.peer.receive(passage.answer)


def shake(policy: Policy, pieces: list[bytes]) -> None:
    guard = Guard(policy, OWN, dialled_peer=None)
    try:
        for piece in pieces:
            if piece[:1] == b"\0":
                guard.from_node(HandshakePacket(piece[1:]))
            else:
                guard.from_peer(HandshakePacket(piece[1:]))
    except DistError:
        pass


def read_by_the_node(pair: Guarded, frame: bytes) -> None:
    """Whatever passes is allowed by what the node itself makes of it."""
    try:
        events = pair.node.receive(FramePacket(frame))
    except DistError:
        return
    for event in events:
        if isinstance(event, MessageReceived):
            assert allowed(event), f"{event!r} passes"


def allowed(event: MessageReceived) -> bool:
    control, payload = event.control, event.payload
    system = type(payload) is tuple and len(payload) == 3 and payload[0] == "system"
    if isinstance(control, _ANSWERS):
        return not (system and isinstance(control, ctl.AliasSend | ctl.AliasSendTT))
    if isinstance(control, ctl.AltactSigSend):
        by_name = isinstance(control.to, Atom)
        exits = control.flags & ctl.ALTACT_EXIT
        return not system and not exits and (not by_name or reaches(control.to, payload))
    if isinstance(control, ctl.RegSend | ctl.RegSendTT):
        return not system and reaches(control.to_name, payload)
    if isinstance(control, ctl.MonitorP):
        return control.to_proc in ("counter", "rex", "net_kernel")
    if isinstance(control, ctl.SpawnRequest | ctl.SpawnRequestTT):
        return runs(control.mfa, payload)
    return False


def runs(mfa: tuple[Atom, Atom, int], arguments: object) -> bool:
    if mfa[0] == "calc":
        return True
    before = {"execute_call": 1, "execute_cast": 0}.get(mfa[1]) if mfa[0] == "erpc" else None
    if before is None or not isinstance(arguments, list):
        return mfa[0] == "erpc" and not isinstance(arguments, list)
    return len(arguments) > before and arguments[before] == "calc"


def reaches(name: object, payload: object) -> bool:
    if name == "counter":
        return True
    if name not in ("rex", "net_kernel") or type(payload) is not tuple:
        return False
    request = payload[-1]
    if request == "features_request":
        return True
    if type(request) is not tuple or len(request) < 2:
        return False
    passed_on = request[0] in ("sbcast", "send") and request[1] == "counter"
    return bool(passed_on or (request[0] != "sbcast" and request[1] == "calc"))


def fragment(tag: bytes, number: int) -> bytes:
    return b"\x83" + tag + (1).to_bytes(8, "big") + number.to_bytes(8, "big")


def seeds() -> Iterator[bytes]:
    """Recorded handshakes and frames; messages of every kind that a rule is about."""
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
