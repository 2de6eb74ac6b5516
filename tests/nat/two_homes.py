"""A public segment with a server, and two homes behind NATs with the same private addresses.

Server `s` is 203.0.113.10. The homes `a` and `b` are both 192.168.1.5 in their networks, behind the
routers `na` (203.0.113.21) and `nb` (203.0.113.22). What the server sends to a private address is
dropped without an error, as on the internet.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType

SERVER = "203.0.113.10"
INSIDE = "192.168.1.5"

_NAT = """
table ip n {
  chain post {
    type nat hook postrouting priority 100;
    oifname "wan" masquerade
  }
}
table ip f {
  chain input {
    type filter hook input priority 0;
    iifname "wan" ct state new drop
  }
  chain forward {
    type filter hook forward priority 0; policy drop;
    iifname "lan" accept
    ct state established,related accept
  }
}
"""

_FLUSH = """
import socket, struct
DELETE = 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE: without attributes, all
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as asking:  # NETLINK_NETFILTER
    asking.send(struct.pack("=IHHIIBBH", 20, DELETE, 5, 1, 0, 0, 0, 0))
    error = struct.unpack_from("=i", asking.recv(4096), 16)[0]
assert error == 0, error
"""


class TwoHomes:
    """The network namespaces. Requires root, iproute2 and nftables."""

    def __init__(self) -> None:
        self._prefix = f"qh{os.getpid() % 100_000}"
        self._spaces: list[str] = []
        self._processes: list[subprocess.Popen[str]] = []

    def run(self, space: str, *command: str, stdin: str | None = None) -> str:
        """Runs a command in a namespace and returns its output. Raises RuntimeError."""
        return _run(*self._enter(space), *command, stdin=stdin)

    def start(self, space: str, *command: str) -> subprocess.Popen[str]:
        """Starts a Python program in a namespace; its output is a pipe."""
        argv = [*self._enter(space), sys.executable, "-u", *command]
        process = subprocess.Popen(argv, stdin=-1, stdout=-1, stderr=subprocess.STDOUT, text=True)
        self._processes.append(process)
        return process

    def forget(self, router: str) -> None:
        """Makes a router forget its mappings, like a restart (`conntrack -F`)."""
        self.run(router, sys.executable, "-c", _FLUSH)

    def forget_after(self, router: str, seconds: int) -> None:
        """Makes a router forget mappings that were idle for some time."""
        for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
            self.run(router, "sysctl", "-qw", f"net.netfilter.{name}={seconds}")

    def __enter__(self) -> TwoHomes:
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
        for space in self._spaces:
            subprocess.run(["ip", "netns", "del", self._prefix + space], check=False)

    def _enter(self, space: str) -> Sequence[str]:
        return ["ip", "netns", "exec", self._prefix + space]

    def _ip(self, space: str, *lines: str) -> None:
        for line in lines:
            self.run(space, "ip", *line.split())

    def _build(self) -> None:
        for space in ("pub", "s", "na", "nb", "a", "b"):
            _run("ip", "netns", "add", self._prefix + space)
            self._spaces.append(space)
            self._ip(space, "link set lo up")
        self._ip("pub", "link add br0 type bridge", "link set br0 up")
        self._plug("s", "eth0", f"{SERVER}/24")
        self._ip(
            "s",
            "link add out type veth peer name void",
            "link set void up",
            "link set out up",
            "addr add 198.51.100.1/24 dev out",
            "neigh add 198.51.100.2 lladdr 02:00:00:00:00:99 dev out",
            "route add default via 198.51.100.2",
        )
        self.run("s", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for home, outside in (("a", "203.0.113.21/24"), ("b", "203.0.113.22/24")):
            router = "n" + home
            self._plug(router, "wan", outside)
            self._link(home, "eth0", router, "lan")
            self._ip(home, f"addr add {INSIDE}/24 dev eth0", "route add default via 192.168.1.1")
            self._ip(router, "addr add 192.168.1.1/24 dev lan", f"route add default via {SERVER}")
            self.run(router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
            self.run(router, "nft", "-f", "-", stdin=_NAT)

    def _plug(self, space: str, device: str, address: str) -> None:
        """Connects a device to the public segment."""
        self._link(space, device, "pub", f"p{space}")
        self._ip(space, f"addr add {address} dev {device}")
        self._ip("pub", f"link set p{space} master br0")

    def use_symmetric_nat(self, router: str) -> None:
        """Replaces the NAT of a router by one whose ports depend on the peer."""
        self.run(router, "nft", "flush", "ruleset")
        rules = _NAT.replace("masquerade", "masquerade fully-random")
        self.run(router, "nft", "-f", "-", stdin=rules)
        self.forget(router)

    def _link(self, one: str, device: str, other: str, far_device: str) -> None:
        ends = (self._prefix + one, self._prefix + other)
        line = f"link add {device} netns {ends[0]} type veth peer name {far_device} netns {ends[1]}"
        _run("ip", *line.split())
        self._ip(one, f"link set {device} up")
        self._ip(other, f"link set {far_device} up")


def why_not() -> str | None:
    """Returns why there can be no such networks on this machine, or None."""
    if os.geteuid() != 0:
        return "not root"
    missing = [tool for tool in ("ip", "nft", "sysctl") if shutil.which(tool) is None]
    return f"no {missing[0]}" if missing else None


def _run(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
