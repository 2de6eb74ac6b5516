"""The Erlang oracle answers."""

from __future__ import annotations

import pytest

from tests.support.erlang import Erlang, ErlangError


@pytest.mark.erlang
def test_it_evaluates_source_and_answers_in_bytes(erl: Erlang) -> None:
    assert erl.eval("[lists:reverse(binary_to_list(In))].", b"abc") == b"cba"


@pytest.mark.erlang
def test_an_error_in_the_source_is_told(erl: Erlang) -> None:
    with pytest.raises(ErlangError, match="badarith"):
        erl.eval("1 / 0.")
