"""Log records of Python arrive in the logger of a stock Erlang node."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from quicdist import Mailbox, Node, NodeLimits
from quicdist.etf import Term
from quicdist.otp.logger import LoggerHandler
from tests.node.conftest import Beam, MakeNode, atom
from tests.node.memory import Hub
from tests.support.waiting import PATIENCE


@contextlib.contextmanager
def attached(handler: LoggerHandler) -> Iterator[logging.Logger]:
    log = logging.getLogger("app.part")
    log.setLevel(1)
    log.addHandler(handler)
    try:
        yield log
    finally:
        log.removeHandler(handler)
        handler.close()


async def tap(beam: Beam, sink: Mailbox) -> None:
    """Forwards log events of the BEAM to a mailbox."""
    await beam.eval(
        f"""logger:set_primary_config(level, all),
        ok = logger:add_primary_filter(tap, {{fun(Event, _) ->
            case Event of
                #{{meta := #{{logger := _}}}} ->
                    {{{sink.name}, '{sink.pid.node}'}} ! Event, stop;
                _ -> ignore
            end
        end, []}})"""
    )


async def untap(beam: Beam) -> None:
    await beam.eval("logger:remove_primary_filter(tap), logger:set_primary_config(level, notice)")


async def event(sink: Mailbox) -> dict[str, Any]:
    found: dict[str, Any] = await sink.receive(timeout=PATIENCE)
    return found


@pytest.mark.erlang
async def test_events(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node, node.mailbox("sink") as sink:
        await tap(beam, sink)
        handler = LoggerHandler(node, beam.name)
        with attached(handler) as log:
            log.warning("caf\xe9 %s", 1, extra={"user": 7, "thing": {1, 2}})
            seen = await event(sink)
            assert seen["level"] == "warning"
            assert seen["msg"] == (atom("string"), "caf\xe9 1".encode())
            meta = seen["meta"]
            assert meta["pid"] == node.pid
            assert meta["gl"].node == beam.name
            assert bytes(meta["file"]).endswith(b"test_logger.py")
            assert meta["mfa"] == (atom("test_logger"), atom("test_events"), 0)
            assert (meta["user"], meta["thing"], meta["logger"]) == (7, b"{1, 2}", b"app.part")
            assert abs(meta["time"] / 1e6 - (await beam.eval("erlang:system_time(second)"))) < 600
            levels = {5: "debug", 20: "info", 25: "notice", 40: "error", 50: "critical"}
            for number, level in levels.items():
                log.log(number, "x")
                assert (await event(sink))["level"] == level

            async def speaks(me: Mailbox) -> None:
                try:
                    raise ValueError("no")
                except ValueError:
                    log.exception("failed")

            process = node.spawn(speaks)
            seen = await event(sink)
            assert seen["meta"]["pid"] == process.pid
            assert seen["msg"][1].startswith(b"failed\nTraceback")
            # Invalid text, and more than one thread.
            log.error("\ud800")
            assert (await event(sink))["msg"][1] == b"?"

            def burst(thread: int) -> None:
                for number in range(100):
                    log.info("%s", number, extra={"source": thread})

            threads = [threading.Thread(target=burst, args=(one,)) for one in range(4)]
            for thread in threads:
                thread.start()
            counts = dict.fromkeys(range(4), 0)
            for _ in range(400):
                seen = await event(sink)
                source = seen["meta"]["source"]
                assert seen["msg"][1] == str(counts[source]).encode()
                counts[source] += 1
            assert await handler.drained()
        await untap(beam)


async def test_nobody_waits_for_a_node_that_is_not_there() -> None:
    hub = Hub()
    limits = NodeLimits(connect_timeout=0.2)
    node = Node("0@127.0.0.1", cookie="c", carriers=[hub], limits=limits)
    other = Node("99@127.0.0.1", cookie="c", carriers=[hub])
    async with node:
        handler = LoggerHandler(node, other.name, limit=10)
        with attached(handler) as log:
            for number in range(100):
                log.info("%s", number)
            assert handler.waiting == 10
            assert not await handler.drained(0)
            async with other, other.mailbox("logger_proxy") as proxy:
                seen: list[Term] = [await proxy.receive(timeout=PATIENCE) for _ in range(11)]
                texts = [one[2] for one in seen]
                told = f"90 log events of {node.name} were dropped: too many waited".encode()
                assert sorted(texts) == sorted([told, *(b"%d" % number for number in range(10))])
                assert await handler.drained()
                # Log records about sending are not sent.
                logging.getLogger("quicdist.node").debug("sent")
                log.info("last")
                assert (await proxy.receive(timeout=PATIENCE))[2] == b"last"
                handler.close()
                log.info("after")
                await asyncio.sleep(0)
                assert proxy.message_count == 0


async def test_the_node_stops_first() -> None:
    async with Node("0@127.0.0.1", cookie="c", carriers=[Hub()]) as node:
        handler = LoggerHandler(node, "99@127.0.0.1")
    with attached(handler) as log:
        log.info("nobody")
        assert await handler.drained(PATIENCE)
        log.info("nobody")
        assert handler.waiting == 0
