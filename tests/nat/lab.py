"""A lab of network namespaces: a public segment, and sites with nodes behind NATs of each kind.

The public segment is 203.0.113.0/24 and 2001:db8::/64. The namespace `core` is a public host at
203.0.113.10 and .11, and routes IPv6 between the sites. Every site has the network 192.168.1.0/24
and a node at 192.168.1.5: equal private addresses are the rule. IPv6 is not translated, but a
stateful firewall drops what no node asked for. No namespace has a link to the machine's own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.nat.kinds import SHIFT, SHIFTED, Kind
from tests.nat.namespaces import Namespace, NotHere, check

CORE, CORE_OTHER = "203.0.113.10", "203.0.113.11"
CORE_V6, CORE_OTHER_V6 = "2001:db8::10", "2001:db8::11"

_labs = itertools.count()


@dataclass
class Site:
    """A network with one or more nodes, and its routers."""

    kind: Kind
    number: int
    nodes: list[Namespace] = field(default_factory=list)
    routers: list[Namespace] = field(default_factory=list)
    """The router of the site, then that of the carrier."""

    @property
    def node(self) -> Namespace:
        return self.nodes[0]

    @property
    def public(self) -> str:
        """The IPv4 address that the core sees."""
        return f"203.0.113.{20 + self.number}"

    @property
    def inside(self) -> str:
        """The IPv4 address of the first node."""
        return "192.168.1.5" if self.kind.has_router else self.public

    @property
    def inside_v6(self) -> str:
        """The IPv6 address of the first node."""
        if not self.kind.has_router:
            return f"2001:db8::{20 + self.number}"
        return f"2001:db8:{self.number}::5"

    def flush(self) -> None:
        """Has all NATs of the site forget their mappings."""
        for router in self.routers:
            router.flush_connections()


class Lab:
    """The namespaces. Sites are added as needed; `close` deletes everything."""

    def __init__(self, delay: float = 0.0) -> None:
        """`delay` is the one-way delay of the public segment in seconds. Raises NotHere."""
        check()
        self.delay = delay
        self._mark = f"qn{os.getpid()}x{next(_labs)}"
        self._spaces: list[Namespace] = []
        self._ports: list[str] = []
        self._switch: subprocess.Popen[str] | None = None
        self._sites = itertools.count(1)
        try:
            self._public = self._space("pub")
            if not delay:
                self._public.ip(["link add br0 type bridge", "link set br0 up"])
            self.core = self._space("core")
            self._plug(self.core, "eth0", [f"{CORE}/24", f"{CORE_OTHER}/24"])
            self._add_addresses(self.core, "eth0", [f"{CORE_V6}/64", f"{CORE_OTHER_V6}/64"])
            self.core.set("net.ipv6.conf.all.forwarding=1")
            # What goes to private addresses vanishes without an error.
            self.core.ip(
                [
                    "link add out type veth peer name void",
                    "link set void up",
                    "link set out up",
                    "address add 198.51.100.1/24 dev out",
                    "route add default via 198.51.100.2",
                    "neighbour add 198.51.100.2 lladdr 02:00:00:00:00:99 dev out",
                ]
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Deletes the namespaces."""
        if self._switch is not None:
            self._switch.terminate()
            self._switch.wait()
        for space in self._spaces:
            space.delete()
        self._spaces.clear()

    def site(self, kind: Kind, *, nodes: int = 1) -> Site:
        """Adds a site with that number of nodes."""
        site = Site(kind, next(self._sites))
        if kind.has_router:
            self._add_routers(site)
            for number in range(nodes):
                self._add_node(site, 5 + number)
        else:
            node = self._space(f"{site.number}n0")
            self._plug(node, "eth0", [f"{site.public}/24", f"{site.inside_v6}/64"])
            node.ip([f"route add default via {CORE}"])
            node.ip([f"route add default via {CORE_V6}"])
            site.nodes.append(node)
        self._restart_switch()
        return site

    def sites_of_one_carrier(self, kind: Kind) -> tuple[Site, Site]:
        """Adds two homes behind one NAT of a carrier."""
        first = self.site(kind)
        second = Site(kind, next(self._sites))
        self._add_home(second, first.routers[1])
        second.routers.append(first.routers[1])
        self._add_node(second, 5)
        return first, second

    # -- building -------------------------------------------------------------------------------

    def _space(self, name: str) -> Namespace:
        space = Namespace(f"{self._mark}{name}")
        self._spaces.append(space)
        return space

    def _link(self, one: Namespace, device: str, other: Namespace, other_device: str) -> None:
        one.ip(
            [
                f"link add {device} type veth peer name {other_device} netns {other.name}",
                f"link set {device} up",
            ]
        )
        other.ip([f"link set {other_device} up"])

    def _add_addresses(self, space: Namespace, device: str, addresses: Sequence[str]) -> None:
        space.ip([f"address add {address} dev {device}" for address in addresses])

    def _plug(self, space: Namespace, device: str, addresses: Sequence[str]) -> None:
        """Connects a namespace to the public segment."""
        port = f"p{len(self._ports)}"
        self._link(space, device, self._public, port)
        self._ports.append(port)
        if self.delay:
            space.disable_offloads(device)
            self._public.disable_offloads(port)
        else:
            self._public.ip([f"link set {port} master br0"])
        self._add_addresses(space, device, addresses)

    def _restart_switch(self) -> None:
        """Starts the switch, which is told its devices at the start."""
        if not self.delay:
            return
        if self._switch is not None:
            self._switch.terminate()
            self._switch.wait()
        words = [sys.executable, "-m", "tests.nat.segment", str(self.delay), *self._ports]
        self._switch = subprocess.Popen(
            self._public.command(words), stdout=subprocess.PIPE, text=True
        )
        assert self._switch.stdout is not None
        with self._switch.stdout as output:
            is_ready = output.readline() == "ready\n"
        if not is_ready:
            raise NotHere("the switch with a delay did not start")

    def _add_routers(self, site: Site) -> None:
        kind = site.kind
        if kind.carrier:
            carrier = self._space(f"{site.number}c")
            self._plug(carrier, "wan", [f"{site.public}/24"])
            carrier.ip(
                [
                    "link add lan type bridge",
                    "link set lan up",
                    "address add 100.64.0.1/24 dev lan",
                    f"route add default via {CORE}",
                ]
            )
            self._add_home(site, carrier)
            _load_rules(carrier, kind, kind.carrier, site.public)
            site.routers.append(carrier)
            return
        router = self._space(f"{site.number}r")
        site.routers.append(router)
        self._plug(router, "wan", [f"{site.public}/24", f"2001:db8::{20 + site.number}/64"])
        self._add_lan(router, site)
        router.ip([f"route add default via {CORE}", f"route add default via {CORE_V6}"])
        self.core.ip([f"route add 2001:db8:{site.number}::/64 via 2001:db8::{20 + site.number}"])
        _load_rules(router, kind, kind.source, site.public)

    def _add_home(self, site: Site, carrier: Namespace) -> None:
        """Adds a home router in the network of a carrier."""
        router = self._space(f"{site.number}r")
        site.routers.append(router)
        home = f"h{site.number}"
        self._link(router, "wan", carrier, home)
        carrier.ip([f"link set {home} master lan"])
        address = f"100.64.0.{1 + site.number}"
        self._add_addresses(router, "wan", [f"{address}/24"])
        router.ip(["route add default via 100.64.0.1"])
        self._add_lan(router, site)
        _load_rules(router, site.kind, site.kind.source, address)

    def _add_lan(self, router: Namespace, site: Site) -> None:
        router.ip(
            [
                "link add lan type bridge",
                "link set lan up",
                "address add 192.168.1.1/24 dev lan",
            ]
        )
        if site.kind.has_ipv6:
            router.ip([f"address add 2001:db8:{site.number}::1/64 dev lan"])

    def _add_node(self, site: Site, number: int) -> None:
        node = self._space(f"{site.number}n{number}")
        self._link(node, "eth0", site.routers[0], f"n{number}")
        site.routers[0].ip([f"link set n{number} master lan"])
        self._add_addresses(node, "eth0", [f"192.168.1.{number}/24"])
        node.ip(["route add default via 192.168.1.1"])
        if site.kind.has_ipv6:
            prefix = f"2001:db8:{site.number}"
            self._add_addresses(node, "eth0", [f"{prefix}::{number}/64"])
            node.ip([f"route add default via {prefix}::1"])
        site.nodes.append(node)


@contextlib.contextmanager
def lab(delay: float = 0.0) -> Iterator[Lab]:
    """A lab that is deleted at the end. Raises NotHere."""
    made = Lab(delay)
    try:
        yield made
    finally:
        made.close()


def _load_rules(router: Namespace, kind: Kind, source: str, wan: str) -> None:
    """Makes a namespace a router with a NAT of a kind."""
    if source == "shift":
        source = "\n".join(
            f'    oifname "wan" udp sport {port} snat to {wan}:{port + SHIFT}' for port in SHIFTED
        )
        source += '\n    oifname "wan" masquerade'
    else:
        source = f'    oifname "wan" {source}'
    forward = f'    iifname "wan" meta l4proto udp {kind.forward}' if kind.forward else ""
    from_inside = 'iifname "lan" accept'
    if not kind.passes_udp:
        from_inside = (
            'iifname "lan" tcp dport 443 accept\n'
            '    iifname "lan" reject with icmpx type admin-prohibited'
        )
    router.nft(
        f"""
table inet firewall {{
  chain forward {{
    type filter hook forward priority 0; policy drop;
    {from_inside}
    ct state established,related accept
    ct status dnat accept
    meta l4proto ipv6-icmp accept
  }}
  chain input {{
    type filter hook input priority 0; policy accept;
    iifname "wan" meta l4proto {{ udp, tcp }} ct state new {kind.unasked.value}
  }}
}}
table ip translation {{
  set asked {{
    type inet_service . ipv4_addr
    flags dynamic,timeout
    timeout 5m
  }}
  chain prerouting {{
    type nat hook prerouting priority -100
{forward}
  }}
  chain postrouting {{
    type nat hook postrouting priority 100
{source}
  }}
  chain remember {{
    type filter hook postrouting priority 50
    oifname "wan" meta l4proto udp add @asked {{ udp sport . ip daddr }}
  }}
}}
"""
    )
    router.set("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
