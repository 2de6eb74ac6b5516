"""Capability flags: the bits of the manual and the mandatory flags."""

from __future__ import annotations

from quicdist.protocol.flags import DEFAULT_FLAGS, KNOWN, MANDATORY, Flag, expand, names


def test_default_is_what_a_hidden_otp_27_node_offers_and_what_came_with_28_and_29() -> None:
    # quic_dist on OTP 25 and 27 offers 0x0d07df7fbd, the lowest bit being PUBLISHED.
    assert int(DEFAULT_FLAGS) == 0x0D07DF7FBC | 1 << 37 | 1 << 38


def test_mandatory_is_what_otp_27_demands() -> None:
    assert int(MANDATORY) == 17230663572
    assert DEFAULT_FLAGS & MANDATORY == MANDATORY


def test_digest_stands_for_everything_otp_25_made_mandatory() -> None:
    offered = expand(Flag.MANDATORY_25_DIGEST | Flag.V4_NC | Flag.UNLINK_ID)
    assert offered & MANDATORY == MANDATORY
    assert expand(int(Flag.SPAWN)) == Flag.SPAWN


def test_names_leave_out_bits_without_a_name() -> None:
    assert names(int(Flag.MAP_TAG | Flag.SPAWN) | 1 << 63) == ["MAP_TAG", "SPAWN"]
    assert KNOWN & 1 << 63 == 0
