"""The socket below QUIC, with real datagrams."""

from __future__ import annotations

import socket

import pytest

from quicdist.carriers.relay.transport import Paths, binder
from tests.support.ports import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.io

HOST = "127.0.0.1"


@pytest.mark.parametrize("is_pinged", [False, True])
async def test_icmp_errors_of_pings_fail_no_dial_attempt(is_pinged: bool) -> None:
    paths = Paths()
    paths.is_used = True
    udp = binder(paths)((HOST, 0), socket.AF_INET, 1 << 16)
    closed, other = (HOST, free_port()), (HOST, free_port())
    if is_pinged:
        paths.pinged = {closed}
    try:
        for address in (closed, other):
            paths.send_aside(b"0" * 27, address)

        def bounced() -> bool:
            udp.receive(8)
            return other in udp.bounced

        await until(bounced)
        assert (closed in udp.bounced) is not is_pinged
    finally:
        udp.close()
