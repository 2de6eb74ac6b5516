"""The ports of a relay: which key has which port, who may be sent to, and how much.

Everything here is pure. Times are passed in: `now` is monotonic, `today` is the time of day, which
survives a restart. All are in seconds.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakValueDictionary

from quicdist.carriers.relay.frames import Refusal, SocketAddress, data_head, plain
from quicdist.carriers.token_bucket import TokenBuckets
from quicdist.errors import QuicdistError
from quicdist.limits import RelayLimits

_DAY = 86_400.0
_VERSION = 1


class PortFileError(QuicdistError):
    """The file of ports is unreadable or has another format."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The holder of a port: the fingerprint of a key, and the number of the node with that key."""

    key: str
    slot: int
    instance: bytes = b""
    """What identifies the process that has a temporary port; empty for the owner of a kept one."""

    @property
    def is_temporary(self) -> bool:
        """Whether the port is free again when the connection of the owner ends."""
        return bool(self.instance)


@dataclass(slots=True)
class _Kept:
    owner: Owner
    used: float
    """Time of day of the last use."""
    is_live: bool = False


class PortTable:
    """Ports by owner. An owner keeps its port while it is connected, and `keep_ports` after that.

    A temporary one has it while it is connected, and gets none that is kept for another owner.

    A new port is chosen by a hash of the owner, so that most owners get the same port again if the
    table is lost.
    """

    def __init__(self, ports: range, limits: RelayLimits, kept: Mapping[int, tuple[Owner, float]]):
        """`ports` are those that this relay may use, and `kept` is the content of `load`."""
        self._ports = ports
        self._limits = limits
        self._kept: dict[int, _Kept] = {}
        self._of: dict[Owner, int] = {}
        self._by_key: Counter[str] = Counter()
        self._new_by_place = TokenBuckets(limits.new_ports_per_address)
        self._blocked: set[int] = set()
        for port, (owner, used) in kept.items():
            if port in ports and owner not in self._of:
                self._add(port, owner, used)

    def __len__(self) -> int:
        return len(self._kept)

    def port_of(self, owner: Owner) -> int | None:
        """Returns the port that is kept for the owner."""
        return self._of.get(owner)

    def allocate(
        self, owner: Owner, wanted: int, place: str, now: float, today: float
    ) -> int | Refusal:
        """Returns the port of the owner, which is live from now on, or why it gets none.

        `wanted` is the port that it asks for, or 0. `place` is where it connects from.
        """
        port = self._of.get(owner)
        if port is None or wanted not in (0, port):
            chosen = self._choose(owner, wanted, place, now, today)
            if isinstance(chosen, Refusal):
                return chosen
            if port is not None:
                self._remove(port)
            port = chosen
            self._add(port, owner, today)
        kept = self._kept[port]
        kept.is_live, kept.used = True, today
        return port

    def rotate(self, former: Owner, owner: Owner) -> bool:
        """Gives the port of a former key to the new key of the same node.

        Returns whether there was one.
        """
        port = self._of.get(former)
        if port is None or owner in self._of:
            return False
        used = self._kept[port].used
        self._remove(port)
        self._add(port, owner, used)
        return True

    def released(self, port: int, today: float) -> None:
        """Reports that the owner of the port is no longer connected. It keeps the port."""
        kept = self._kept.get(port)
        if kept is not None:
            kept.is_live, kept.used = False, today

    def closed(self, port: int) -> None:
        """Reports that the port is closed. It is free again if it was temporary."""
        kept = self._kept.get(port)
        if kept is not None and kept.owner.is_temporary:
            self._remove(port)

    def unusable(self, port: int) -> None:
        """Reports that the port cannot be bound: another program of this machine uses it."""
        self._blocked.add(port)
        self._remove(port)

    def dump(self) -> bytes:
        """Returns the content of the file of ports."""
        ports = {
            str(port): {"key": kept.owner.key, "slot": kept.owner.slot, "used": int(kept.used)}
            for port, kept in sorted(self._kept.items())
            if not kept.owner.is_temporary
        }
        return json.dumps({"version": _VERSION, "ports": ports}, indent=1).encode() + b"\n"

    def _choose(
        self, owner: Owner, wanted: int, place: str, now: float, today: float
    ) -> int | Refusal:
        replaces = owner in self._of
        if not replaces and self._by_key[owner.key] >= self._limits.ports_per_key:
            return Refusal.KEY_FULL
        if wanted:
            if wanted not in self._ports or wanted in self._blocked:
                return Refusal.PORT_TAKEN
            kept = self._kept.get(wanted)
            if kept is not None and not _may_take(owner, kept):
                return Refusal.PORT_TAKEN
            port: int | None = wanted
        else:
            port = self._free(owner)
            if port is None and not owner.is_temporary:
                port = self._abandoned(today)
        if port is None:
            return Refusal.PORTS_FULL
        if not self._new_by_place.take(place, now):
            return Refusal.RATE
        if port in self._kept:
            self._remove(port)
        return port

    def _free(self, owner: Owner) -> int | None:
        count = len(self._ports)
        if len(self._kept) + len(self._blocked) >= count:
            return None
        name = f"{owner.key} {owner.slot}{owner.instance.hex()}"
        digest = hashlib.sha256(name.encode()).digest()
        first = int.from_bytes(digest[:8], "big")
        for step in range(count):
            port = self._ports[(first + step) % count]
            if port not in self._kept and port not in self._blocked:
                return port
        return None

    def _abandoned(self, today: float) -> int | None:
        """The port that was not used for the longest time, if that is long enough."""
        free = [(kept.used, port) for port, kept in self._kept.items() if not kept.is_live]
        used, port = min(free, default=(today, 0))
        return port if port and today - used >= self._limits.keep_ports * _DAY else None

    def _add(self, port: int, owner: Owner, used: float) -> None:
        self._kept[port] = _Kept(owner, used)
        self._of[owner] = port
        self._by_key[owner.key] += 1

    def _remove(self, port: int) -> None:
        kept = self._kept.pop(port, None)
        if kept is None:
            return
        del self._of[kept.owner]
        self._by_key[kept.owner.key] -= 1
        if not self._by_key[kept.owner.key]:
            del self._by_key[kept.owner.key]


def _may_take(owner: Owner, kept: _Kept) -> bool:
    """Whether an owner may take a port of another one: of the same key, for one that is kept."""
    return not kept.is_live and kept.owner.key == owner.key and not owner.is_temporary


def load(data: bytes) -> dict[int, tuple[Owner, float]]:
    """Parses the content of a file of ports. Raises PortFileError."""
    try:
        content = json.loads(data)
        if content["version"] != _VERSION:
            raise ValueError("another version")
        return {
            int(port): (Owner(str(one["key"]), int(one["slot"])), float(one["used"]))
            for port, one in content["ports"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PortFileError(f"invalid content ({type(error).__name__}: {error})") from None


class ByteBucket:
    """Allows `per_second` bytes a second on average, and bursts of a quarter of a second."""

    __slots__ = ("_at", "_burst", "_left", "_per_second")

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._burst = self._left = per_second / 4
        self._at = 0.0

    def has(self, size: int, now: float) -> bool:
        """Whether `size` bytes are left at the time `now`.

        Bytes of one call may exceed the burst if the bucket is full.
        """
        left = self._left
        if now > self._at:
            left += (now - self._at) * self._per_second
            self._left = left = min(left, self._burst)
            self._at = now
        return left >= size or left >= self._burst

    def take(self, size: int) -> None:
        """Takes `size` bytes, of which `has` has told that they are left."""
        self._left -= size


@dataclass(slots=True)
class Client:
    """An address that has sent to a port."""

    head: bytes
    """What precedes its datagrams in data frames."""
    bucket: ByteBucket
    heard: float
    is_answered: bool = False
    """Whether the node has sent to it."""
    batches: int = 0
    """Batches to and from it since `counted`."""
    volume: int = 0
    """Their bytes."""
    counted: float = 0.0
    granted: float = -math.inf
    """When it got bytes for the fast path."""

    def count(self, size: int, now: float, *, within: float) -> None:
        """Counts a batch, together with those within that time."""
        if now - self.counted > within:
            self.batches, self.volume, self.counted = 0, 0, now
        self.batches += 1
        self.volume += size


class Clients:
    """The clients of a port, to which its node may send.

    They are the addresses that have sent to the port within `permission` seconds, at most
    `clients_per_port`. A client is confirmed when it sends again after the node has answered, as
    one with a forged address does not. When there are too many, a new one replaces the one that is
    not confirmed and was not heard for the longest time. Confirmed ones are not replaced.
    """

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._life = limits.permission
        self._new: OrderedDict[SocketAddress, Client] = OrderedDict()
        self._confirmed: OrderedDict[SocketAddress, Client] = OrderedDict()

    def __len__(self) -> int:
        return len(self._new) + len(self._confirmed)

    def heard(self, address: SocketAddress, now: float) -> Client | None:
        """Returns the client, from which a datagram came; None if there are too many others."""
        client = self._confirmed.get(address)
        if client is not None:
            self._confirmed.move_to_end(address)
        else:
            client = self._heard_new(address, now)
            if client is None:
                return None
        client.heard = now
        return client

    def permitted(self, address: SocketAddress, now: float) -> Client | None:
        """Returns the client if the node may send to it, which is then answered."""
        client = self._confirmed.get(address) or self._new.get(address)
        if client is None or now - client.heard >= self._life:
            return None
        client.is_answered = True
        return client

    def left(self, client: Client, now: float) -> float:
        """Returns the seconds until the permission to send to the client ends."""
        return client.heard + self._life - now

    def expire(self, now: float) -> None:
        """Drops the clients whose permission has ended."""
        for known in (self._new, self._confirmed):
            while known:
                address, client = next(iter(known.items()))
                if now - client.heard < self._life:
                    break
                del known[address]

    def _heard_new(self, address: SocketAddress, now: float) -> Client | None:
        client = self._new.pop(address, None)
        if client is not None:
            known = self._confirmed if client.is_answered else self._new
            known[address] = client
            return client
        if len(self) >= self._limits.clients_per_port and not self._make_room(now):
            return None
        bucket = ByteBucket(self._limits.bytes_per_second_per_client)
        client = self._new[address] = Client(data_head(plain(address)), bucket, now)
        return client

    def _make_room(self, now: float) -> bool:
        if self._new:
            self._new.popitem(last=False)
            return True
        self.expire(now)
        return len(self) < self._limits.clients_per_port


class Rates:
    """The rate limits of a relay: for each client of a port, for each key, and in all."""

    def __init__(self, limits: RelayLimits) -> None:
        self._all = ByteBucket(limits.bytes_per_second)
        self._per_key = limits.bytes_per_second_per_key
        self._keys: WeakValueDictionary[str, KeyRate] = WeakValueDictionary()

    def of_key(self, key: str) -> KeyRate:
        """Returns the rate of all ports with this key. It exists while one of them keeps it."""
        rate = self._keys.get(key)
        if rate is None:
            rate = self._keys[key] = KeyRate(ByteBucket(self._per_key), self._all)
        return rate


class KeyRate:
    """The rate of all nodes with one key."""

    def __init__(self, key: ByteBucket, everything: ByteBucket) -> None:
        self._key = key
        self._all = everything

    def take(self, client: ByteBucket, size: int, now: float) -> bool:
        """Counts `size` bytes to or from a client; returns False if a rate does not allow them."""
        if client.has(size, now) and self._key.has(size, now) and self._all.has(size, now):
            client.take(size)
            self._key.take(size)
            self._all.take(size)
            return True
        return False
