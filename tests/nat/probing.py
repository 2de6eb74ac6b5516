"""What a NAT is, by its behaviour towards sockets (RFC 5780): mapping, filtering, hairpinning."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from typing import TypeAlias

from tests.nat.kinds import Dependence
from tests.nat.lab import CORE, CORE_OTHER, CORE_OTHER_V6, CORE_V6, Lab
from tests.nat.namespaces import Namespace

Address: TypeAlias = tuple[str, int]

PORTS = (3478, 3479)
_PATIENCE = 0.4
"""Seconds to wait for a datagram, which takes less than a millisecond."""

_ports = itertools.count(4434)


class Probe:
    """Public sockets on the core at two addresses with two ports each."""

    def __init__(self, lab: Lab, *, is_v6: bool = False) -> None:
        self._stack = contextlib.ExitStack()
        hosts = (CORE_V6, CORE_OTHER_V6) if is_v6 else (CORE, CORE_OTHER)
        self.servers: dict[tuple[int, int], socket.socket] = {}
        for i, j in itertools.product(range(2), range(2)):
            server = self._stack.enter_context(lab.core.udp(hosts[i], PORTS[j]))
            self.servers[i, j] = server
        self._any = "::" if is_v6 else "0.0.0.0"

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def client(self, node: Namespace) -> Iterator[socket.socket]:
        """A socket of a node, each time with another of the ports that `shift` translates."""
        with node.udp(self._any, 4434 + (next(_ports) - 4434) % 16) as sock:
            yield sock

    def observed(self, client: socket.socket, i: int = 0, j: int = 0) -> Address | None:
        """Returns the source address of the client at a server; None if nothing arrives."""
        return passes(client, self.servers[i, j], self.servers[i, j].getsockname()[:2])

    def mapping(self, node: Namespace) -> tuple[Dependence, int, int]:
        """Returns the kind of the mapping, and the inside and outside ports of the first one."""
        with self.client(node) as client:
            seen = {ij: self.observed(client, *ij) for ij in self.servers}
            port = client.getsockname()[1]
        first = seen[0, 0]
        assert first is not None, "no UDP"
        if len(set(seen.values())) == 1:
            return Dependence.ENDPOINT_INDEPENDENT, port, first[1]
        if seen[0, 0] == seen[0, 1] and seen[1, 0] == seen[1, 1]:
            return Dependence.ADDRESS, port, first[1]
        return Dependence.ADDRESS_AND_PORT, port, first[1]

    def filtering(self, node: Namespace) -> Dependence:
        """Returns on what it depends who can answer."""
        with self.client(node) as client:
            outside = self.observed(client)
            assert outside is not None, "no UDP"
            from_port = passes(self.servers[0, 1], client, outside)
            from_address = passes(self.servers[1, 0], client, outside)
        if from_port and from_address:
            return Dependence.ENDPOINT_INDEPENDENT
        return Dependence.ADDRESS if from_port else Dependence.ADDRESS_AND_PORT

    def is_spoiled_by_a_knock(self, node: Namespace) -> bool:
        """Returns whether an unasked packet of a peer changes the mapping towards that peer."""
        with self.client(node) as client:
            outside = self.observed(client)
            assert outside is not None, "no UDP"
            passes(self.servers[1, 1], client, outside)
            return self.observed(client, 1, 1) != outside

    def hairpins(self, node: Namespace) -> bool:
        """Returns whether a node reaches its own outside address."""
        with self.client(node) as one, self.client(node) as other:
            outside = self.observed(one)
            assert outside is not None, "no UDP"
            self.observed(other)
            return passes(other, one, outside) is not None


def passes(sender: socket.socket, receiver: socket.socket, to: Address) -> Address | None:
    """Sends a datagram to an address and returns where it came from at the receiver, or None."""
    token = os.urandom(8)
    with contextlib.suppress(OSError):  # an ICMP error of an earlier datagram
        sender.sendto(token, to)
    receiver.settimeout(_PATIENCE)
    with contextlib.suppress(OSError):
        while True:
            data, source = receiver.recvfrom(64)
            if data == token:
                return source[0], source[1]
    return None
