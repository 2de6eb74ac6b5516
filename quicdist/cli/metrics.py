"""Serves the metrics of a command over HTTP."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from quicdist.cli.exit_codes import ExitCode, Problem

if TYPE_CHECKING:
    from quicdist.carriers.relay.server import Relay
    from quicdist.gateway import Gateway
    from quicdist.node.node import Node

logger = logging.getLogger("quicdist.cli")


@contextlib.contextmanager
def served(what: Node | Gateway | Relay, where: str) -> Iterator[None]:
    """Serves metrics at `[IP:]PORT` while the body of the `with` runs.

    Raises Problem, MissingExtra.
    """
    from quicdist.cluster.names import parse_listen
    from quicdist.metrics.prometheus import serve

    host, port = parse_listen(where if ":" in where else f"127.0.0.1:{where}")
    with contextlib.ExitStack() as stack:
        try:
            address = stack.enter_context(serve(what, host=host, port=port))
        except OSError as error:
            raise Problem(ExitCode.LOCAL, f"--prometheus {where}: {error.strerror}") from None
        extra = {"event": "metrics_up", "node": what.name, "address": "{}:{}".format(*address)}
        logger.info("metrics are at http://%s:%d/metrics", *address, extra=extra)
        yield
