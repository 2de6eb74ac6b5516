"""The UDP socket of an endpoint; reports the path and the ECN codepoint of each datagram."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from quicdist.carriers.forking import keep_from_children
from quicdist.carriers.quic.ecn import ECT0, NOT_ECT
from quicdist.carriers.quic.engine import (
    MAX_SEGMENTS,
    Batch,
    CompiledSocket,
    Path,
    Received,
    SocketAddress,
    SocketOf,
)
from quicdist.protocol.dialects.base import Buffer

_MAX_DATAGRAM = 65535
_MAX_SEGMENTED = 65_000
"""Maximum bytes of one system call with UDP_SEGMENT. A packet with its headers has at most 65,535
bytes."""
_QUEUE_LIMIT = 1024
"""Maximum datagrams queued while the kernel accepts none. Further ones are dropped."""

_LONE = 8
"""Number of reads of a single datagram after which the next read checks for more."""

_LINUX = sys.platform.startswith("linux")
_IP_RECVERR, _IPV6_RECVERR = 11, 25  # not named by the socket module; ip(7), ipv6(7)
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_PMTUDISC_PROBE = 3  # never fragment, and ignore the path MTU that the kernel has stored
_MAX_BOUNCED = 64
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)  # named from Python 3.14 on; ip(7)
_IN_PKTINFO = struct.Struct("=i4s4s")  # interface, local address, destination address
_IN6_PKTINFO = struct.Struct("=16si")  # address, interface
_SO_MEMINFO = 55  # not named by the socket module; linux/sock_diag.h, SK_MEMINFO_RMEM_ALLOC
_UDP_SEGMENT, _UDP_GRO = 103, 104  # not named by the socket module; udp(7)
_U16, _INT = struct.Struct("=H"), struct.Struct("=i")

_IP_RECVTOS, _IPV6_RECVTCLASS = 13, 66  # ip(7), ipv6(7)
_ECN = 0x03
"""The bits of the ECN field in the TOS byte and in the traffic class (RFC 3168, 5)."""
_MAX_UNMARKED = 1024

_IP, _IPV6, _UDP = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.IPPROTO_UDP
_IP_TOS = socket.IP_TOS
_IPV6_TCLASS = getattr(socket, "IPV6_TCLASS", 67)
_Ancillary = tuple[int, int, bytes]
_NOT_MARKED: dict[bool, list[_Ancillary]] = {
    False: [(_IP, _IP_TOS, _INT.pack(NOT_ECT))],
    True: [(_IPV6, _IPV6_TCLASS, _INT.pack(NOT_ECT))],
}
"""The control message of a datagram without ECT(0), by whether it is sent over IPv6."""


def reader_of() -> SocketOf | None:
    """Returns the compiled reader of sockets; None if it was not built or is not wanted."""
    if os.environ.get("QUICDIST_PURE_PYTHON"):
        return None
    try:
        from quicdist.carriers.quic._reader import Reader
    except ImportError:
        return None
    return Reader


class UdpSocket:
    """A non-blocking UDP socket. With a wildcard address, each datagram has its local address."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.family = sock.family
        self.address: SocketAddress = sock.getsockname()
        """The address that the socket is or was bound to."""
        self._queue: deque[tuple[bytes, Path]] = deque()
        self._wildcard = _LINUX and _is_wildcard(self.address[0])
        self._ancillary: dict[bytes, list[_Ancillary]] = {}
        self._lone = 0
        self._compiled: CompiledSocket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_ready: Callable[[], None] = _nothing
        self._is_queue_watched = False
        self.bounced: dict[SocketAddress, int] = {}
        """Addresses that caused an ICMP error, with its `errno` (Linux)."""
        self.tells_refusals = _LINUX
        """Whether this system reports ICMP errors in `bounced`."""
        if _LINUX:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            _option(sock, socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
            if self.family == socket.AF_INET6:
                _option(sock, socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        self._watched: select.epoll | None = None
        keep_from_children(self)
        self._reads_ecn = False
        self._unmarked: set[SocketAddress] = set()
        """Where datagrams are sent without ECT(0)."""
        self._segments = _LINUX
        """Whether to use UDP_SEGMENT, until the kernel rejects it."""
        self._merges = _LINUX and _option(sock, socket.IPPROTO_UDP, _UDP_GRO, 1)
        """Whether the kernel returns several datagrams of one sender in one buffer (UDP_GRO)."""
        if self._wildcard:
            if self.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)

    @classmethod
    def bind(cls, address: SocketAddress, family: int, buffer_size: int) -> UdpSocket:
        """Opens and binds a socket. `::` also accepts IPv4. Raises OSError."""
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, option, buffer_size)
            if family == socket.AF_INET6:
                only_v6 = 0 if address[0] == "::" else 1
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
            sock.bind(address)
            return cls(sock)
        except BaseException:
            sock.close()
            raise

    def compile(self, socket_of: SocketOf | None) -> None:
        """Reads with compiled code, if there is any. That of an engine may send as well."""
        if socket_of is not None:
            self._compiled = socket_of(self._socket.fileno(), self._wildcard)

    def sender_to(self, address: SocketAddress) -> CompiledSocket | None:
        """What may send to this address beside `send_all`, at the moment.

        Nothing while datagrams are queued, or if they are to be sent without ECT(0).
        """
        if self._queue or not self._segments or address in self._unmarked:
            return None
        return self._compiled

    def use_ecn(self) -> None:
        """Sends datagrams with ECT(0) and reads the ECN codepoint of received ones (Linux)."""
        if not _LINUX:
            return
        # A socket for IPv6 uses the options of both for mapped addresses.
        levels = [(_IP, _IP_RECVTOS, _IP_TOS)]
        if self.family == socket.AF_INET6:
            levels.append((_IPV6, _IPV6_RECVTCLASS, _IPV6_TCLASS))
        for level, reads, sends in levels:
            self._reads_ecn |= _option(self._socket, level, reads, 1)
            _option(self._socket, level, sends, ECT0)

    def leave_unmarked(self, address: SocketAddress) -> None:
        """Sends without ECT(0) to this address from now on."""
        if len(self._unmarked) >= _MAX_UNMARKED:
            self._unmarked.clear()
        self._unmarked.add(address)

    def fileno(self) -> int:
        """The file descriptor of the socket; -1 after `close`."""
        return self._socket.fileno()

    def descriptors(self) -> Sequence[int]:
        """The open file descriptors."""
        watched = [] if self._watched is None else [self._watched.fileno()]
        return [self._socket.fileno(), *watched]

    @property
    def _readable(self) -> int:
        """What the event loop watches. Loops need not accept objects with a file descriptor."""
        return (self._socket if self._watched is None else self._watched).fileno()

    def watch(self, loop: asyncio.AbstractEventLoop, on_ready: Callable[[], None]) -> None:
        """Calls `on_ready` when the socket is readable, or writable with queued datagrams."""
        self._loop, self._on_ready = loop, on_ready
        if self.tells_refusals and not isinstance(loop, asyncio.SelectorEventLoop):
            self._watched = _watched(self._socket)
        loop.add_reader(self._readable, on_ready)

    def unwatch(self) -> None:
        """Ends `watch`."""
        if self._loop is not None:
            self._loop.remove_reader(self._readable)
            self._watch_queue(False)
            self._loop = None
            if self._watched is not None:
                self._watched.close()
                self._watched = None

    def _watch_queue(self, is_wanted: bool) -> None:
        """Sets whether `on_ready` is called when the socket is writable."""
        if self._loop is None or is_wanted is self._is_queue_watched:
            return
        self._is_queue_watched = is_wanted
        if self._watched is not None:
            events = select.EPOLLIN | (select.EPOLLOUT if is_wanted else 0)
            self._watched.modify(self._socket, events)
        elif is_wanted:
            self._loop.add_writer(self._socket.fileno(), self._on_ready)
        else:
            self._loop.remove_writer(self._socket.fileno())

    @property
    def takes_ipv4(self) -> bool:
        """Whether IPv4 peers can be reached."""
        if self.family == socket.AF_INET:
            return True
        return not self._socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)

    @property
    def is_wildcard(self) -> bool:
        """Whether the socket is bound to all addresses of this machine."""
        return _is_wildcard(self.address[0])

    @property
    def has_queue(self) -> bool:
        """Whether datagrams are queued until the kernel accepts them."""
        return bool(self._queue)

    def unread(self) -> int:
        """Returns about how many bytes of datagrams wait to be read (Linux); otherwise 0.

        The kernel tells their memory, which is two to three times as large.
        """
        if not _LINUX:
            return 0
        try:
            data = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _INT.size)
        except OSError:
            return 0
        return int(_INT.unpack(data)[0]) // 3 if len(data) == _INT.size else 0

    def receive(self, limit: int) -> list[Received]:
        """Returns about `limit` received datagrams, those of one sender in a row as one batch.

        After a read of a single datagram, the next calls read only once, because the system call
        that finds no further datagram costs as much as reading one.
        """
        if self._compiled is not None:
            batches, has_error = self._compiled.read(limit)
            if has_error or not batches:
                self._read_bounced()
            return batches
        if self._lone:
            self._lone -= 1
            batches = self._read(1)
            if batches and not _is_lone(batches):
                self._lone = 0
            return batches
        batches = self._read(limit)
        if _is_lone(batches):
            self._lone = _LONE
        return batches

    def _read(self, limit: int) -> list[Received]:
        batches: list[Received] = []
        sock = self._socket
        is_woken_for_nothing = False
        try:
            if not self._wildcard and not self._merges and not self._reads_ecn:
                for _ in range(limit):
                    data, address = sock.recvfrom(_MAX_DATAGRAM)
                    batches.append((data, len(data), (address, None), NOT_ECT))
            else:
                count = 0
                while count < limit:
                    data, ancillary, _, address = sock.recvmsg(_MAX_DATAGRAM, 128)
                    path = (address, _local_address(ancillary) if self._wildcard else None)
                    size, ecn = _size_and_ecn(ancillary)
                    if not 0 < size < len(data):
                        size = len(data)
                        count += 1
                    else:
                        count += -(-len(data) // size)
                    batches.append((data, size, path, ecn))
        except (BlockingIOError, InterruptedError):
            is_woken_for_nothing = not batches
        except OSError:
            is_woken_for_nothing = True
        if is_woken_for_nothing and _LINUX:
            # The socket stays readable while an ICMP error is queued, even if a send has reported
            # the error or no call reports it.
            self._read_bounced()
        return batches if len(batches) < 2 else _merged(batches)

    def ignore_errors(self) -> None:
        """Has the kernel report no ICMP errors, so that an event loop can watch the socket itself.

        Called before `watch`.
        """
        if self.tells_refusals:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 0)
            if self.family == socket.AF_INET6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 0)
        self.tells_refusals = False

    def read_errors(self) -> None:
        """Empties the queue of ICMP errors, which keeps the socket readable."""
        if self.tells_refusals:
            self._read_bounced()

    def receive_batches(self, limit: int) -> list[Batch]:
        """About `limit` times what one system call returns, without cutting it into datagrams.

        once where there was no more the last time, since the call that finds nothing costs as much.
        """
        batches: list[Batch] = []
        try:
            for _ in range(limit if self._lone == 0 else 1):
                data, ancillary, _, address = self._socket.recvmsg(_MAX_DATAGRAM, 128)
                path = (address, _local_address(ancillary) if self._wildcard else None)
                size, _ = _size_and_ecn(ancillary)
                batches.append((data, size if 0 < size < len(data) else len(data), path))
        except OSError:
            if not batches:
                self.read_errors()
        if self._lone:
            self._lone -= 1
        elif len(batches) == 1:
            self._lone = _LONE
        return batches

    def send_merged(self, data: bytes, size: int, path: Path) -> None:
        """Sends datagrams that follow each other in `data`, as `send_segments` does.

        They have this size; the last one may be shorter.
        """
        if self._segments and not self._queue and len(data) <= _MAX_SEGMENTED:
            address, local = path
            ancillary = [(socket.IPPROTO_UDP, _UDP_SEGMENT, _U16.pack(size))]
            if local is not None:
                ancillary += self._from(local)
            if len(data) <= size * MAX_SEGMENTS:
                try:
                    self._socket.sendmsg((data,), ancillary, 0, address)
                    return
                except OSError:
                    pass  # the other way deals with it
        self.send_segments([data[at : at + size] for at in range(0, len(data), size)], path)

    def send_segments(self, parts: Sequence[Buffer], path: Path) -> None:
        """Sends datagrams of one size, the last maybe shorter, to one address.

        What the kernel refuses is lost; what it has no room for is queued.
        """
        if len(parts) > 1 and self._segments and not self._queue:
            address, local = path
            ancillary = [(socket.IPPROTO_UDP, _UDP_SEGMENT, _U16.pack(len(parts[0])))]
            if local is not None:
                ancillary += self._from(local)
            most = min(MAX_SEGMENTS, max(_MAX_SEGMENTED // max(len(parts[0]), 1), 1))
            for at in range(0, len(parts), most):
                some = parts[at : at + most]
                try:
                    self._socket.sendmsg(some, ancillary, 0, address)
                except (BlockingIOError, InterruptedError):
                    self._queue.extend((bytes(one), path) for one in some)
                    self._watch_queue(True)
                except OSError:  # too large for the path, or told of an earlier datagram
                    self._send_each(some, path)
        else:
            self._send_each(parts, path)

    def _send_each(self, parts: Sequence[Buffer], path: Path) -> None:
        for one in parts:
            with contextlib.suppress(OSError):
                self.send(bytes(one), path)

    def _read_bounced(self) -> None:
        """Reads the queue of ICMP errors. They can be forged, so they are only hints."""
        with contextlib.suppress(OSError):
            while True:
                _, ancillary, _, address = self._socket.recvmsg(0, 512, socket.MSG_ERRQUEUE)
                for _, kind, data in ancillary:
                    is_error = kind in (_IP_RECVERR, _IPV6_RECVERR) and len(data) >= 4
                    if is_error and len(self.bounced) < _MAX_BOUNCED:
                        (number,) = struct.unpack_from("=I", data)
                        if number == errno.EMSGSIZE:
                            continue  # path MTU discovery notices that its probe is lost
                        self.bounced[address] = number

    def send(self, data: bytes, path: Path) -> None:
        """Sends a datagram to the address of the path, or queues it while the kernel accepts none.

        Raises OSError if the datagram cannot be sent.
        """
        if self._queue:
            if len(self._queue) < _QUEUE_LIMIT:
                self._queue.append((data, path))
            return
        try:
            self._send(data, path)
        except (BlockingIOError, InterruptedError):
            self._queue.append((data, path))
            self._watch_queue(True)

    def send_all(self, batches: Sequence[Batch]) -> None:
        """Sends datagrams in order, with as few system calls as possible.

        Raises OSError for the first datagram that cannot be sent. The others are sent.
        """
        failure: OSError | None = None
        at, count = 0, len(batches)
        while at < count:
            data, size, path = batches[at]
            stop = at + 1
            try:
                if size < len(data):
                    self._send_batch([data], size, path)
                else:
                    if stop < count and self._segments and not self._queue:
                        stop = _run_end(batches, at)
                    if stop - at == 1:
                        self.send(data, path)
                    else:
                        self._send_batch([each for each, _, _ in batches[at:stop]], size, path)
            except OSError as error:
                failure = failure or error
            at = stop
        if failure is not None:
            raise failure

    def _send_batch(self, parts: list[bytes], size: int, path: Path) -> None:
        """Sends datagrams of `size` bytes, the last maybe shorter, that are joined or are parts."""
        if self._segments and not self._queue and self._send_segmented(parts, size, path):
            return
        failure: OSError | None = None
        for datagram in _split(parts, size):
            try:
                self.send(datagram, path)
            except OSError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _send_segmented(self, parts: list[bytes], size: int, path: Path) -> bool:
        """Sends a batch in one call. Returns False if the kernel cannot."""
        address, local = path
        ancillary = [(socket.IPPROTO_UDP, _UDP_SEGMENT, _U16.pack(size))]
        if local is not None:
            ancillary += self._from(local)
        if self._unmarked and address in self._unmarked:
            ancillary += _not_marked(address)
        try:
            self._socket.sendmsg(parts, ancillary, 0, address)
        except (BlockingIOError, InterruptedError):
            self._queue.extend((datagram, path) for datagram in _split(parts, size))
            self._watch_queue(True)
        except ConnectionRefusedError:
            return False  # the error of an earlier datagram
        except OSError:
            # Some devices and kernels do not support it. Single sends report the actual error.
            self._segments = False
            return False
        return True

    def send_queue(self) -> None:
        """Sends queued datagrams until the kernel accepts no more."""
        while self._queue:
            try:
                self._send(*self._queue[0])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                pass  # the datagram counts as lost
            self._queue.popleft()
        self._watch_queue(False)

    def close(self) -> None:
        """Closes the socket."""
        self._compiled = None
        self.unwatch()
        self._queue.clear()
        self._socket.close()

    def _send(self, data: bytes, path: Path) -> None:
        try:
            self._send_once(data, path)
        except ConnectionRefusedError:
            # The error of an earlier datagram. This one was not sent.
            self._send_once(data, path)

    def _send_once(self, data: bytes, path: Path) -> None:
        address, local = path
        if self._unmarked and address in self._unmarked:
            ancillary = _not_marked(address)
            if local is not None:
                ancillary = [*ancillary, *self._from(local)]
            self._socket.sendmsg([data], ancillary, 0, address)
        elif local is None:
            self._socket.sendto(data, address)
        else:
            self._socket.sendmsg([data], self._from(local), 0, address)

    def _from(self, local: bytes) -> list[_Ancillary]:
        """Returns the control message that sets the local address of a datagram."""
        known = self._ancillary.get(local)
        if known is None:
            if len(local) == 4:
                info = _IN_PKTINFO.pack(0, local, bytes(4))
                known = [(socket.IPPROTO_IP, _IP_PKTINFO, info)]
            else:
                info = _IN6_PKTINFO.pack(local, 0)
                known = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)]
            self._ancillary[local] = known
        return known


def _merged(batches: Sequence[Received]) -> list[Received]:
    """Joins single datagrams of one size, path and ECN codepoint in a row, as UDP_GRO does.

    The last one may be shorter.

    The kernel joins only those that a network card has received together.
    """
    merged: list[Received] = []
    parts: list[bytes] = []
    joined, whole, marked, is_open = None, 0, NOT_ECT, False
    for data, size, path, ecn in batches:
        if is_open and 0 < size == len(data) <= whole and ecn == marked and path == joined:
            parts.append(data)
        else:
            if joined is not None:
                merged.append((b"".join(parts), whole, joined, marked))
            parts, whole, joined, marked = [data], size, path, ecn
        is_open = 0 < size == len(data) == whole
    if joined is not None:
        merged.append((b"".join(parts), whole, joined, marked))
    return merged


def _watched(sock: socket.socket) -> select.epoll:
    """Returns an epoll object for event loops that cannot watch a socket with errors.

    libuv stops watching a socket that has an error in its error queue (ip(7), IP_RECVERR). An epoll
    object is readable when one of its files is ready (epoll(7)), but each wakeup takes longer.
    """
    watched = select.epoll()
    watched.register(sock, select.EPOLLIN)
    return watched


def _nothing() -> None:
    """The callback before `watch`."""


def _option(sock: socket.socket, level: int, name: int, value: int) -> bool:
    try:
        sock.setsockopt(level, name, value)
    except OSError:
        return False
    return True


def _is_lone(batches: Sequence[Received]) -> bool:
    """Whether these are one datagram."""
    return len(batches) == 1 and len(batches[0][0]) <= batches[0][1]


def _split(parts: Sequence[bytes], size: int) -> Iterator[bytes]:
    for part in parts:
        for at in range(0, len(part), size):
            yield part[at : at + size]


def _run_end(batches: Sequence[Batch], at: int) -> int:
    """Returns the end of the single datagrams that can be sent in one call with that at `at`."""
    data, size, path = batches[at]
    most = min(at + min(MAX_SEGMENTS, _MAX_SEGMENTED // size), len(batches)) if size else at
    stop = at + 1
    while stop < most:
        data, length, other = batches[stop]
        if length > size or length < len(data) or other != path:
            break
        stop += 1
        if length < size:
            break
    return stop


def _size_and_ecn(ancillary: Sequence[_Ancillary]) -> tuple[int, int]:
    """Returns the size of each datagram in a buffer, and their ECN codepoint.

    The size is 0 for a single datagram.
    """
    size, ecn = 0, NOT_ECT
    for level, kind, data in ancillary:
        if level == _IP:
            if kind == _IP_TOS:
                ecn = data[0] & _ECN
        elif level == _UDP:
            if kind == _UDP_GRO:
                (size,) = _INT.unpack_from(data)
        elif level == _IPV6 and kind == _IPV6_TCLASS:
            ecn = _INT.unpack_from(data)[0] & _ECN
    return size, ecn


def _not_marked(address: SocketAddress) -> list[_Ancillary]:
    """Returns the control message of a datagram without ECT(0)."""
    host = address[0]
    return _NOT_MARKED[":" in host and not host.startswith("::ffff:")]


def _is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::")


def _local_address(ancillary: Sequence[_Ancillary]) -> bytes | None:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            local: bytes = _IN_PKTINFO.unpack_from(data)[1]
            return local
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return bytes(_IN6_PKTINFO.unpack_from(data)[0])
    return None
