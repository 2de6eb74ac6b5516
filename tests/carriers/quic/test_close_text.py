"""Texts for close codes."""

from __future__ import annotations

import pytest

from quicdist.carriers.quic.close_text import describe


@pytest.mark.parametrize(
    ("is_application", "code", "reason", "text"),
    [
        (True, 0, "\x1b[2J\nup to you", "application close 0: ?[2J?up to you"),
        (False, 0x0A, "", "protocol violation"),
        (False, 0x100 + 48, "", "TLS alert unknown ca"),
        (False, 0x100 + 255, "x", "TLS alert 0xff: x"),
        (False, 0x1234, "", "0x1234"),
    ],
)
def test_a_close_is_one_harmless_line(
    is_application: bool, code: int, reason: str, text: str
) -> None:
    assert describe(is_application=is_application, code=code, reason=reason) == text
