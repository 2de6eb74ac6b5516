"""A relay on loopback, for nodes with `Node(via=...)`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from quicdist.carriers.relay.server import Relay
from quicdist.carriers.trust import Credentials, Identity, Trust
from tests.support.ports import free_ports

HOST = "127.0.0.1"


@contextlib.asynccontextmanager
async def relay(
    folder: Path,
    port: int = 0,
    *,
    tcp_port: int = 0,
    host: str = HOST,
    ports: range | None = None,
) -> AsyncIterator[Relay]:
    """Starts a relay with its files in `folder` and ports that only this worker uses."""
    credentials = Credentials(Identity.kept([HOST], folder), Trust.first_use(folder / "known"))
    one = Relay(
        host,
        port,
        credentials=credentials,
        ports=ports or free_ports(20),
        port_file=folder / "ports.json",
        tcp_port=tcp_port,
    )
    async with one:
        yield one


def via(one: Relay, tcp_port: int = 0) -> str:
    """Returns the setting `via` for nodes at the relay."""
    return f"{one.address[1]}@{HOST}/{tcp_port}"
