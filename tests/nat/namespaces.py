"""Network namespaces: their commands, sockets in them, and what is set by system calls."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence

_CLONE_NEWNET = 0x40000000
_NETLINK_NETFILTER = 12
_CONNTRACK_DELETE = 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
_REQUEST_ACK = 1 | 4
_SIOCETHTOOL = 0x8946
_OFFLOADS = (0x17, 0x19, 0x1F, 0x24)  # ETHTOOL_STXCSUM, _SSG, _STSO, _SGSO

_libc = ctypes.CDLL(None, use_errno=True)


class NotHere(Exception):
    """This machine cannot run the lab; the text says why."""


def check() -> None:
    """Raises NotHere if this machine has no network namespaces or no nftables."""
    if os.geteuid() != 0:
        raise NotHere("network namespaces need root")
    for tool in ("ip", "nft", "sysctl"):
        if shutil.which(tool) is None:
            raise NotHere(f"there is no `{tool}`")


def run(command: Sequence[str], *, text: str = "") -> str:
    """Runs a command and returns its output. Raises NotHere if it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHere(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Namespace:
    """A network namespace."""

    def __init__(self, name: str) -> None:
        """Creates it. Raises NotHere."""
        self.name = name
        run(["ip", "netns", "add", name])
        self.ip(["link set lo up"])
        self.set("net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")

    def delete(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, check=False)

    def command(self, words: Sequence[str]) -> list[str]:
        """Returns the command that runs `words` in the namespace."""
        return ["ip", "netns", "exec", self.name, *words]

    def ip(self, lines: Sequence[str]) -> None:
        """Runs `ip` commands."""
        run(["ip", "-n", self.name, "-batch", "-"], text="\n".join(lines) + "\n")

    def set(self, *settings: str) -> None:
        """Sets kernel parameters."""
        run(self.command(["sysctl", "-qw", *settings]))

    def nft(self, rules: str) -> None:
        """Loads nftables rules."""
        run(self.command(["nft", "-f", "-"]), text=rules)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Within it this thread opens its sockets in the namespace."""
        with contextlib.ExitStack() as stack:
            here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            stack.callback(os.close, here)
            there = os.open(f"/var/run/netns/{self.name}", os.O_RDONLY)
            stack.callback(os.close, there)
            _enter(there)
            stack.callback(_enter, here)
            yield

    def udp(self, host: str, port: int) -> socket.socket:
        """Returns a bound UDP socket."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with self.entered():
            sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind((host, port))
        return sock

    def flush_connections(self) -> None:
        """Has the NAT forget all its mappings."""
        with (
            self.entered(),
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link,
        ):
            link.bind((0, 0))
            link.send(struct.pack("=IHHIIBBH", 20, _CONNTRACK_DELETE, _REQUEST_ACK, 1, 0, 0, 0, 0))
            (error,) = struct.unpack_from("=i", link.recv(4096), 16)
        if error:
            raise NotHere(f"conntrack entries cannot be deleted: {os.strerror(-error)}")

    def disable_offloads(self, device: str) -> None:
        """Has the kernel finish each frame before it leaves by a device, for a reader of frames."""
        with self.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for what in _OFFLOADS:
                value = ctypes.create_string_buffer(struct.pack("=II", what, 0))
                request = struct.pack("@16sP", device.encode(), ctypes.addressof(value))
                with contextlib.suppress(OSError):
                    fcntl.ioctl(sock, _SIOCETHTOOL, request.ljust(40, b"\0"))


def _enter(handle: int) -> None:
    if _libc.setns(handle, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
