"""Runs a gateway for one Erlang node: `python -m benchmarks.sides.gateway NAME`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks.sides.measuring import log_errors_only, say
from quicdist import Identity, Trust
from quicdist.gateway import Gateway, GatewaySettings, run

SETTINGS = GatewaySettings(
    sys.argv[1],
    epmd_port=0,
    identity=Identity.ephemeral(["127.0.0.1"]),
    trust=Trust.first_use(Path(tempfile.mkdtemp()) / "known"),
)


def started(gateway: Gateway) -> None:
    """Prints the port of the gateway's EPMD server for the parent process."""
    say({"epmd_port": gateway.epmd_port})


log_errors_only()
asyncio.run(run(SETTINGS, started=started))
