"""A bounded set of half-open connections, with a limit for each source address."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from quicdist.carriers.address_group import host_prefix, site_prefix

M = TypeVar("M")


@dataclass(slots=True)
class _Site(Generic[M]):
    """The members of one site by address group, ordered by age within a group."""

    by_prefix: dict[str, dict[M, None]] = field(default_factory=dict)
    count: int = 0

    def count_of(self, prefix: str) -> int:
        return len(self.by_prefix.get(prefix, ()))

    @property
    def most_of_a_prefix(self) -> int:
        return max(map(len, self.by_prefix.values()))

    @property
    def oldest(self) -> M:
        """Returns the oldest member of the address group with the most members."""
        most = self.most_of_a_prefix
        return next(next(iter(each)) for each in self.by_prefix.values() if len(each) == most)


class HalfOpen(Generic[M]):
    """The half-open connections of an endpoint, which are known only by their source address.

    The set holds at most `most` members, and at most `most_per_address` for one IPv4 address, IPv6
    /64 or IPv6 /48. When it is full, a new member replaces the oldest member of the source with
    the most members. If the new member comes from that source itself, it is rejected. Thus many
    connections from one source do not keep out connections from another.
    """

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._sites: dict[str, _Site[M]] = {}
        self._members: dict[M, tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[M]:
        return iter(self._members)

    def is_full(self, host: str) -> bool:
        """Returns whether the address or IPv6 /48 of `host` has reached its limit."""
        site = self._sites.get(site_prefix(host))
        return site is not None and site.count >= self._most_per_address

    def refuses(self, host: str) -> bool:
        """Returns whether a new member from `host` must be refused."""
        site = self._sites.get(site_prefix(host))
        here = 0 if site is None else site.count_of(host_prefix(host))
        if here >= self._most_per_address:
            return True
        if site is not None and site.count >= self._most_per_address:
            return here >= site.most_of_a_prefix
        if len(self._members) < self._most:
            return False
        return (0 if site is None else site.count) >= self._largest().count

    def to_evict(self, host: str) -> M | None:
        """Returns the member to remove before one from `host` is added; None if there is room.

        Only valid if `refuses` returns False for `host`.
        """
        site = self._sites.get(site_prefix(host))
        if site is not None and site.count >= self._most_per_address:
            return site.oldest
        return self._largest().oldest if len(self._members) >= self._most else None

    def add(self, member: M, host: str) -> None:
        """Adds a member that comes from `host`."""
        name, prefix = site_prefix(host), host_prefix(host)
        self._members[member] = (name, prefix)
        site = self._sites.setdefault(name, _Site())
        site.by_prefix.setdefault(prefix, {})[member] = None
        site.count += 1

    def discard(self, member: M) -> None:
        """Removes a member; does nothing if it is not in the set."""
        where = self._members.pop(member, None)
        if where is None:
            return
        name, prefix = where
        site = self._sites[name]
        site.count -= 1
        del site.by_prefix[prefix][member]
        if not site.by_prefix[prefix]:
            del site.by_prefix[prefix]
        if not site.count:
            del self._sites[name]

    def _largest(self) -> _Site[M]:
        return max(self._sites.values(), key=lambda each: each.count)
