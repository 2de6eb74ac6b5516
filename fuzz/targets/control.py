"""Control messages: what is read of one is written back to the same."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.targets.etf import LIMITS
from fuzz.targets.pieces import messages
from quicdist.dist.control import UnknownControl, parse
from quicdist.dist.errors import ProtocolError
from quicdist.etf import EtfDecodeError, Options, decode_bare, encode_bare

OPTIONS = Options(limits=LIMITS)


def check(data: bytes) -> None:
    """One tuple."""
    try:
        values, _ = decode_bare(data, 0, OPTIONS)
        control = parse(values)
    except (EtfDecodeError, ProtocolError):
        return
    again, _ = decode_bare(encode_bare(control.to_tuple()))
    assert parse(again) == control, f"{control!r} comes back as {parse(again)!r}"
    assert isinstance(control, UnknownControl) or control.to_tuple()[0] == control.OP


def seeds() -> Iterator[bytes]:
    """The recorded ones."""
    for control, *_ in messages():
        yield encode_bare(control)
