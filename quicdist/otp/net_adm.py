"""Lists the nodes of hosts.

OTP, net_adm(3). `net_adm:ping` is `Node.ping`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from quicdist.carriers import epmd
from quicdist.node.node import Node
from quicdist.setting_types import Duration, RemotePort, check_type


async def names(
    host: str = "localhost", *, port: int | None = None, timeout: float = 5.0
) -> list[tuple[str, int]]:
    """Returns the nodes registered with the EPMD or gateway of a host, as `net_adm:names`.

    The result has (name, port) pairs. Nodes that use only QUIC are not registered with an EPMD:
    their name contains their address. `port` is the port of the EPMD, by default `ERL_EPMD_PORT`,
    or 4369. `timeout` is in seconds.

    Raises OSError (including TimeoutError) if there is no answer, and EpmdError if the answer is
    not an EPMD answer.
    """
    check_type("port=", port, RemotePort | None)
    check_type("timeout=", timeout, Duration)
    address = epmd.EpmdAddress(host, epmd.default_port() if port is None else port)
    return await epmd.names(address, timeout=timeout)


async def world(
    node: Node, hosts: Iterable[str], *, port: int | None = None, timeout: float = 5.0
) -> list[str]:
    """Connects to the nodes registered with the EPMDs of `hosts`, as `net_adm:world_list`.

    Returns the nodes that answered, each within `timeout` seconds. The node needs a carrier that
    supports such names. A host whose EPMD does not answer is skipped.
    """
    check_type("port=", port, RemotePort | None)
    check_type("timeout=", timeout, Duration)

    async def on(host: str) -> list[str]:
        try:
            known = await names(host, port=port, timeout=timeout)
        except (OSError, epmd.EpmdError):
            return []
        return [f"{name}@{host}" for name, _ in known]

    found = await asyncio.gather(*map(on, hosts))
    there = [name for names_there in found for name in names_there if name != node.name]
    answers = await asyncio.gather(*(node.ping(one, timeout=timeout) for one in there))
    return [one for one, answer in zip(there, answers, strict=True) if answer]
