"""Fuzz target for direct paths: offers of a peer that has the cookie, and pings of anybody.

Only addresses that a peer offered are pinged, or those from which it sent a valid ping, at most
eight. Own addresses are not.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence

from fuzz.targets.pieces import join, split
from quicdist.carriers.relay.candidates import (
    MAX_CANDIDATES,
    Address,
    Candidate,
    CandidateKind,
)
from quicdist.carriers.relay.offers import Form, Offer, OfferError, decode
from quicdist.carriers.relay.paths import Output, PeerPaths
from quicdist.carriers.relay.punching import PUNCH_KIND, SessionKey, Transmit, Verb
from quicdist.protocol.role import Role

_OWN: Address = ("192.0.2.1", 4433)
_PEER: Address = ("192.0.2.2", 4433)
_SECRET = bytes(16)
_KEY = SessionKey.derive(_SECRET, _SECRET)


def check(data: bytes) -> None:
    """Choice byte: the role. A piece is an offer, or a datagram if its first byte says so."""
    choice, pieces = split(data)
    role = Role.LISTENER if choice & 1 else Role.DIALER
    paths = PeerPaths(role, own=[_candidate(_OWN)], random=bytes)
    pinged = _pinged(paths.proved(0.0))
    allowed: set[Address] = set()
    for number, piece in enumerate(pieces):
        now = 2.0 * number
        if piece[:1] == bytes([PUNCH_KIND]):
            source = (_PEER[0], 1 + number)
            outputs = paths.receive(piece, source, now)
            allowed |= {source} if outputs else set()
        else:
            outputs = ()
            with contextlib.suppress(OfferError):
                allowed |= {one.address for one in decode(piece).candidates}
                outputs = paths.offer_received(piece, now, None)
        pinged |= _pinged([*outputs, *paths.tick(now), *paths.tick(now + 0.1)])
        assert len(paths.pinged) <= MAX_CANDIDATES
        assert paths.next_at >= 0
    assert pinged <= allowed
    assert _OWN not in pinged


def _pinged(outputs: Sequence[Output]) -> set[Address]:
    return {one.address for one in outputs if isinstance(one, Transmit)}


def _candidate(address: Address) -> Candidate:
    return Candidate(CandidateKind.OBSERVED, address)


def seeds() -> Iterator[bytes]:
    """Yields offers and answers with pings and pongs of their session."""
    hosts = [_PEER[0], "2001:db8::2", "127.0.0.1", "224.0.0.1", _OWN[0]]
    candidates = tuple(_candidate((host, 4433)) for host in hosts)
    for form, role in itertools.product(Form, Role):
        offer = Offer(form, 1, _SECRET, candidates).encode()
        empty = Offer(form, 1, _SECRET).encode()
        datagrams = [_KEY.seal(verb, role, number) for verb in Verb for number in (1, 2, 2)]
        for choice in (0, 1):
            yield join(choice, [offer, *datagrams, empty, offer, *datagrams])
