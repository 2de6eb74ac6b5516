"""The frames between a node and its relay."""

from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.relay.batches import all_frames, common_head, with_heads, without_heads
from quicdist.carriers.relay.frames import (
    FIRST_QUIC_BYTE,
    INSTANCE_LENGTH,
    NONCE_LENGTH,
    Address,
    Allocate,
    Allocated,
    Challenge,
    FrameError,
    KeepAlive,
    Lease,
    Message,
    Observed,
    Proof,
    Refusal,
    Refused,
    data_head,
    decode,
    encode,
    head_size,
    pack_address,
    unpack_address,
)
from quicdist.carriers.relay.stream import FrameSplitter, with_length

PORTS = st.integers(0, 65535)
ADDRESSES: st.SearchStrategy[Address] = st.tuples(st.ip_addresses().map(str), PORTS)

MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Challenge, st.binary(min_size=NONCE_LENGTH, max_size=NONCE_LENGTH)),
    st.builds(Proof, st.binary(max_size=2000), st.binary(max_size=600)),
    st.builds(
        Allocate,
        PORTS,
        PORTS,
        ADDRESSES,
        st.binary(min_size=INSTANCE_LENGTH, max_size=INSTANCE_LENGTH),
        st.sampled_from(Lease),
    ),
    st.builds(Allocated, PORTS, PORTS, ADDRESSES),
    st.builds(Observed, ADDRESSES),
    st.builds(Refused, st.sampled_from(Refusal)),
    st.builds(KeepAlive),
)


@given(MESSAGES)
def test_a_control_message_is_decoded_as_it_was_encoded(message: Message) -> None:
    assert decode(encode(message)) == message


@given(MESSAGES.filter(lambda one: not isinstance(one, Proof)), st.binary(max_size=20))
def test_a_later_version_may_append_fields(message: Message, more: bytes) -> None:
    assert decode(encode(message) + more) == message


@given(ADDRESSES, st.integers(2, 255))
def test_a_request_without_a_known_lease_is_for_a_kept_port(relay: Address, other: int) -> None:
    request = Allocate(3, 0, relay, bytes(INSTANCE_LENGTH), Lease.TEMPORARY)
    for last in (b"", bytes((other,))):
        found = decode(encode(request)[:-1] + last)
        assert found == Allocate(3, 0, relay, bytes(INSTANCE_LENGTH), Lease.KEPT)


@given(st.binary(max_size=200))
def test_hostile_bytes_raise_only_frame_errors(data: bytes) -> None:
    with contextlib.suppress(FrameError):
        decode(data)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff", b"\x04\x00", b"\x06\x00", b"\x06\xff"])
def test_a_malformed_message_is_an_error(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode(data)


@given(ADDRESSES)
def test_an_address_is_unpacked_as_it_was_packed(address: Address) -> None:
    packed = pack_address(address)
    assert unpack_address(packed) == address
    assert len(packed) == (6 if ipaddress.ip_address(address[0]).version == 4 else 18)


@given(ADDRESSES)
def test_the_head_of_a_data_frame_tells_its_size(address: Address) -> None:
    head = data_head(address)
    assert head[0] < FIRST_QUIC_BYTE
    assert head_size(head[0]) == len(head)
    assert unpack_address(head[1:]) == address


@given(st.integers(0, 255))
def test_no_other_first_byte_is_that_of_a_data_frame(first: int) -> None:
    assert (head_size(first) > 0) == (first in (0x20, 0x21))


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 50))
def test_frames_are_split_at_any_boundaries(frames: list[bytes], step: int) -> None:
    stream = b"".join(map(with_length, frames))
    splitter = FrameSplitter()
    found: list[bytes] = []
    for at in range(0, len(stream), step):
        found += splitter.feed(stream[at : at + step])
    assert found == frames


@given(st.integers(101, 65535))
def test_a_frame_above_the_limit_is_an_error_before_it_is_stored(length: int) -> None:
    splitter = FrameSplitter(100)
    with pytest.raises(FrameError):
        splitter.feed(length.to_bytes(2, "big"))


@given(st.integers(1, 60), st.integers(1, 40), st.integers(0, 59), st.binary(max_size=8))
def test_merged_datagrams_get_heads_and_lose_them(
    size: int, count: int, short: int, head: bytes
) -> None:
    data = bytes(range(256)) * 10
    data = data[: max(size * count - short % size, 1)]
    framed = with_heads(data, size, head)
    parts = without_heads(framed, size + len(head), len(head))
    assert b"".join(parts) == data
    assert all(len(part) == size for part in parts[:-1])


@given(st.lists(st.sampled_from([b"\x20", b"\x40"]), min_size=1, max_size=9), st.integers(1, 5))
def test_merged_datagrams_are_frames_only_if_each_one_is(kinds: list[bytes], size: int) -> None:
    data = b"".join(kind.ljust(size, b"\xff") for kind in kinds)
    assert all_frames(data, size) == all(kind == b"\x20" for kind in kinds)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_merged_frames_for_two_addresses_are_not_forwarded_as_one(host: str) -> None:
    one, two = (data_head((host, port)) + b"\x40abc" for port in (1, 2))
    head = len(one) - 4
    assert common_head(one + one, len(one)) == head
    assert common_head(one + one[:-2], len(one)) == head
    assert not common_head(one + two, len(one))
    assert not common_head(one + one[:head], len(one))
    assert not common_head(one + one[:head] + b"\x01abc", len(one))
