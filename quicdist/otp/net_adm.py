"""Who is on a host, and whether they answer.

OTP, net_adm(3). `ping` is `Node.ping`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from quicdist.carriers import epmd
from quicdist.node.node import Node


async def names(
    host: str = "localhost", *, port: int | None = None, timeout: float = 5.0
) -> list[tuple[str, int]]:
    """The nodes that EPMD, or a gateway, knows on a host: (name, port), as `net_adm:names`. Those
    on QUIC alone are in no EPMD: their name says where they are. `port` is EPMD's, by default
    that of `ERL_EPMD_PORT`, else 4369. 5 s by default.

    Raises OSError (TimeoutError among them) when nobody answers, EpmdError when it is no EPMD.
    """
    address = epmd.EpmdAddress(host, epmd.default_port() if port is None else port)
    return await epmd.names(address, timeout=timeout)


async def world(
    node: Node, hosts: Iterable[str], *, port: int | None = None, timeout: float = 5.0
) -> list[str]:
    """Connects to every node that the EPMDs of these hosts know, as `net_adm:world_list`. Returns
    those that answered, each within 5 s by default. The node needs a carrier that takes such
    names. A host where no EPMD answers has no nodes."""

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
