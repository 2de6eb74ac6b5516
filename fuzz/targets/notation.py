"""Fuzz target for Erlang term syntax: a parsed term prints as text that parses to the same term."""

from __future__ import annotations

from collections.abc import Iterator

from quicdist.etf.notation import NotationError, format_term, parse_call, parse_term
from tests.etf.exactly import exactly

NODE = "node@host"
LONGEST = 100_000
"""Maximum characters to parse again: `<<0:50000000>>` prints as millions, which is slow."""


def check(data: bytes) -> None:
    """The first byte selects a term or a call."""
    text = data[1:].decode(errors="replace")
    try:
        if data[:1] == b"c":
            parse_call(text)
            return
        term = parse_term(text, node=NODE)
    except NotationError:
        return
    printed = format_term(term, node=NODE)
    if len(printed) > LONGEST:
        return
    again = parse_term(printed, node=NODE)
    assert exactly(again) == exactly(term), f"{text!r} prints as {printed!r}"


def seeds() -> Iterator[bytes]:
    """Yields an example of each syntax form."""
    for text in (
        "{ok, [1, -2.5e10, 16#ff, $a, $\\n]}.",
        '#{a => 1, "text" => <<"bin">>, \'quoted atom\' => [a | b]}',
        '<<1, 2:16, "abc"/utf8, 3:5, 4.5/float>>',
        "<0.94.0>",
        "{#Ref<0.1.2.3>, #Port<0.5>, fun erlang:node/0}",
        '"a" "b\\x{41}\\101\\e"',
        "% comment\n[]",
        "1_000",
    ):
        yield b"t" + text.encode()
    yield b"clists:seq(1, [2, {a}])"
    yield b"c'Elixir.Foo':bar()"
