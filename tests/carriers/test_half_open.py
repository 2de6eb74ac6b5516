"""The allocation of half-open connection slots and the eviction policy."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.address_group import host_prefix, site_prefix
from quicdist.carriers.half_open import HalfOpen

MOST, MOST_PER_ADDRESS = 12, 5

v4 = st.integers(1, 40).map(lambda n: f"192.0.2.{n}")
v6 = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 3)).map(
    lambda n: f"2001:db8:{n[0]}:{n[1]}::{n[2]}"
)
hosts = v4 | v6


class Full:
    """Half-open slots, filled as a listener fills them."""

    def __init__(self) -> None:
        self.crowd: HalfOpen[int] = HalfOpen(MOST, MOST_PER_ADDRESS)
        self.host_of: dict[int, str] = {}
        self._next = 0

    def try_one(self, host: str) -> int | None:
        """Returns the number of the new connection; None if it is refused."""
        if self.crowd.refuses(host):
            return None
        gone = self.crowd.to_evict(host)
        if gone is not None:
            self.leave(gone)
        self._next += 1
        self.crowd.add(self._next, host)
        self.host_of[self._next] = host
        return self._next

    def leave(self, member: int) -> None:
        self.crowd.discard(member)
        del self.host_of[member]

    def sites(self) -> Counter[str]:
        return Counter(map(site_prefix, self.host_of.values()))


@given(st.lists(hosts | st.none(), max_size=80))
def test_the_bounds_hold_and_nothing_is_forgotten(steps: list[str | None]) -> None:
    full = Full()
    for host in steps:
        if host is not None:
            full.try_one(host)
        elif full.host_of:
            full.leave(min(full.host_of))
        assert set(full.crowd) == set(full.host_of)
        assert len(full.crowd) <= MOST
        assert max(full.sites().values(), default=0) <= MOST_PER_ADDRESS
    for member in list(full.host_of):
        full.leave(member)
    assert not full.crowd._sites


@given(st.lists(hosts, max_size=80), hosts)
def test_a_newcomer_is_refused_only_where_nobody_has_more_than_its_own(
    others: list[str], host: str
) -> None:
    full = Full()
    for each in others:
        full.try_one(each)
    before = full.sites()
    prefixes = Counter(map(host_prefix, full.host_of.values()))
    mine = before[site_prefix(host)]
    if full.try_one(host) is None:
        is_full_here = mine >= MOST_PER_ADDRESS and prefixes[host_prefix(host)] == max(
            count for place, count in prefixes.items() if place_in(place, host, full)
        )
        is_largest = len(full.crowd) >= MOST and mine >= max(before.values())
        assert is_full_here or is_largest


def place_in(place: str, host: str, full: Full) -> bool:
    return any(
        host_prefix(each) == place and site_prefix(each) == site_prefix(host)
        for each in full.host_of.values()
    )


@given(st.lists(hosts, min_size=40, max_size=80))
def test_who_has_fewest_is_never_ended_for_who_has_more(others: list[str]) -> None:
    full = Full()
    first = full.try_one("203.0.113.1")
    for each in others:
        full.try_one(each)
    most = max(full.sites().values())
    assert first in full.host_of or most == 1


def test_all_of_one_customer_count_as_one_address() -> None:
    """A /56 has 256 networks of 64 bits."""
    full = Full()
    for network in range(256):
        full.try_one(f"2001:db8:0:{network:x}::1")
    assert full.sites() == {"2001:0db8:0000::/48": MOST_PER_ADDRESS}
    assert full.crowd.is_full("2001:db8:0:ffff::1")
    assert not full.crowd.is_full("2001:db8:1::1")


def test_a_neighbour_in_the_48_takes_a_place_from_who_has_most() -> None:
    full = Full()
    members = [full.try_one("2001:db8:0:1::1") for _ in range(MOST_PER_ADDRESS + 2)]
    assert members[MOST_PER_ADDRESS:] == [None, None]
    assert full.try_one("2001:db8:0:2::1") is not None
    assert members[0] not in full.host_of
    assert full.try_one("2001:db8:0:1::1") is None
