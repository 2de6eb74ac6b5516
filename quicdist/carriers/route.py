"""The kernel's route to an address, asked for with rtnetlink(7)."""

from __future__ import annotations

import socket
import struct
import sys

from quicdist.carriers.private_addresses import address_of

_GET_ROUTE = 26  # RTM_GETROUTE
_NEW_ROUTE = 24  # RTM_NEWROUTE
_REQUEST = 1  # NLM_F_REQUEST
_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: the answer is the matching route (Linux 4.13)
_DESTINATION = 1  # RTA_DST
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr
_TIMEOUT = 0.2
_SIZE = 8192


def prefix_towards(host: str) -> int | None:
    """Returns the prefix length of the route to an address, after all rules and tables.

    0 is the default route. The call does not block: the kernel answers at once. Returns None
    without a route, for host names, and where the kernel cannot be asked.
    """
    address = address_of(host)
    if address is None or not sys.platform.startswith("linux"):
        return None
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    packed = address.packed
    body = _ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, _FIB_MATCH)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _DESTINATION) + packed
    request = _HEADER.pack(_HEADER.size + len(body), _GET_ROUTE, _REQUEST, 1, 0) + body
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asking:
            asking.settimeout(_TIMEOUT)
            asking.send(request)
            answer = asking.recv(_SIZE)
    except OSError:
        return None
    if len(answer) < _HEADER.size + _ROUTE.size or _HEADER.unpack_from(answer)[1] != _NEW_ROUTE:
        return None
    prefix: int = _ROUTE.unpack_from(answer, _HEADER.size)[1]
    return prefix
