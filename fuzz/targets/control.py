"""Fuzz target for control messages: encoding a parsed message keeps its meaning."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.targets.etf import LIMITS
from fuzz.targets.pieces import messages
from quicdist.etf import EtfDecodeError, Options, decode_bare, encode_bare
from quicdist.protocol.errors import ProtocolError
from quicdist.protocol.flags import DEFAULT_FLAGS, Flag
from quicdist.protocol.wire import FOLLOWS, OPERATIONS, WireForms, parse

OPTIONS = Options(limits=LIMITS)
FORMS = [WireForms(DEFAULT_FLAGS), WireForms(DEFAULT_FLAGS & ~Flag.EXIT_PAYLOAD)]


def check(data: bytes) -> None:
    """Parses `data` as one control tuple."""
    try:
        values, _ = decode_bare(data, 0, OPTIONS)
        signal, payload = parse(values)
    except (EtfDecodeError, ProtocolError):
        return
    if payload is FOLLOWS:
        payload = 1
    for forms in FORMS:
        written, _ = forms.of(signal, payload)
        again, _ = decode_bare(encode_bare(written))
        assert parse(again)[0] == signal, f"{signal!r} comes back as {parse(again)!r}"
        assert written[0] in OPERATIONS or written[0] == values[0]


def seeds() -> Iterator[bytes]:
    """Yields the recorded control messages."""
    for control, *_ in messages():
        yield encode_bare(control)
