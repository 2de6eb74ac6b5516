"""The meaning of rules, and rules that are rejected as invalid."""

from __future__ import annotations

from typing import Any

import pytest

from quicdist.cluster.access_rules import (
    RUNTIME_TAGS,
    AccessRules,
    check_name_pattern,
    is_request_tag,
    is_runtime_message,
)
from quicdist.cluster.otp_names import OTP_NAMES
from quicdist.etf import Atom


@pytest.mark.parametrize(
    "pattern",
    ["*", "a*", "st*", "?ounter", "*_sup", "Elixir.*", "[a-z]ounter", "rex", "net_kernel"],
)
def test_patterns_that_cannot_hold_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="'"):
        check_name_pattern(pattern)


@pytest.mark.parametrize("pattern", ["counter", "stats_*", "Elixir.MyApp.*", "logger"])
def test_names_and_their_beginnings_are_patterns(pattern: str) -> None:
    check_name_pattern(pattern)


@pytest.mark.parametrize("name", sorted(OTP_NAMES))
def test_no_beginning_of_a_name_of_otp_s_is_one(name: str) -> None:
    for end in range(len(name) + 1):
        with pytest.raises(ValueError, match="'"):
            check_name_pattern(name[:end] + "*")


def test_a_wildcard_opens_no_name_of_otp_s_in_any_case() -> None:
    rules = AccessRules(names=("*",), calls=("calc:*",))
    assert rules.may_send_to("counter")
    assert not any(rules.may_send_to(name) for name in OTP_NAMES)


def test_messages_of_the_runtime_system_are_told_by_their_first_element() -> None:
    for tag in RUNTIME_TAGS:
        assert is_runtime_message((Atom(tag), 1, 2))
        assert is_runtime_message((Atom(tag),))
    others: list[Any] = [(), Atom("EXIT"), [Atom("EXIT"), 1], (b"EXIT", 1), (True, 1), 1]
    assert not any(map(is_runtime_message, others))
    assert is_request_tag("$gen_call")
    assert not is_request_tag("gen_call")
    assert not is_request_tag(None)


def test_options_of_a_spawn_request_that_do_no_harm() -> None:
    rules = AccessRules(calls=("calc:*",))
    link, monitor = Atom("link"), Atom("monitor")
    assert rules.may_spawn_with([link, (monitor, [(Atom("alias"), Atom("demonitor"))])])
    for option in ((Atom("min_heap_size"), 1), Atom("unknown"), (), 1):
        assert not rules.may_spawn_with([link, option])
    assert AccessRules(calls=("*",)).may_spawn_with([(Atom("min_heap_size"), 1)])
