"""What operators see of a running command: systemd, probes and metrics."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

from quicdist.cli.exit_codes import ExitCode, Problem

if TYPE_CHECKING:
    from quicdist.metrics.reading import Source

    class Operated(Source, Protocol):
        """A node, gateway or relay."""

        @property
        def name(self) -> str:
            """Its name in the log."""


logger = logging.getLogger("quicdist.cli")


@contextlib.asynccontextmanager
async def operated(what: Operated, http: str | None) -> AsyncIterator[None]:
    """Reports READY to systemd, and serves HTTP at `[IP:]PORT`, while the block runs.

    Enter it when the ports of the node, gateway or relay are open. Raises Problem.
    """
    from quicdist.cli import systemd

    async with contextlib.AsyncExitStack() as stack:
        if http is not None:
            await stack.enter_async_context(_served(what, http))
        await stack.enter_async_context(systemd.ready())
        yield


@contextlib.asynccontextmanager
async def _served(what: Operated, where: str) -> AsyncIterator[None]:
    from quicdist.cluster.names import parse_listen
    from quicdist.metrics.health import serve_health

    host, port = parse_listen(where if ":" in where else f"127.0.0.1:{where}")
    async with contextlib.AsyncExitStack() as stack:
        try:
            serving = serve_health(what, host=host, port=port)
            bound, bound_port = await stack.enter_async_context(serving)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise Problem(ExitCode.LOCAL, f"--http {where}: {why}") from None
        url = f"http://[{bound}]:{bound_port}" if ":" in bound else f"http://{bound}:{bound_port}"
        extra = {"event": "metrics_up", "node": what.name, "address": f"{bound}:{bound_port}"}
        logger.info("health and metrics are at %s/metrics", url, extra=extra)
        yield
