"""A RabbitMQ cluster of two or three brokers, each behind its gateway."""

from __future__ import annotations

import json
import struct
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gateway.amqp import Amqp
from tests.gateway.brokers import NEEDS_RABBITMQ, cluster
from tests.support.gatewayed import GatewayProcess, GatewayThread
from tests.support.waiting import PATIENCE, wait_until

pytestmark = NEEDS_RABBITMQ


def test_a_cluster_forms_and_passes_messages(tmp_path: Path) -> None:
    with cluster(tmp_path, 2, named=GatewayThread) as (first, second):
        status = json.loads(second.control("-q", "--formatter", "json", "cluster_status"))
        assert set(status["running_nodes"]) == {first.name, second.name}

        one, two = Amqp(first.amqp_port, PATIENCE), Amqp(second.amqp_port, PATIENCE)
        try:
            one.confirm()
            two.confirm()
            for name, kind in (("plain", "classic"), ("replicated", "quorum")):
                # The queue is on the node that declared it; the other node publishes and gets.
                one.declare(name, {"x-queue-type": kind})
                for size in (10, 1_000_000):
                    two.publish(name, b"m" * size)
                    one.publish(name, b"n" * size)
                for size in (10, 1_000_000):
                    assert two.get(name) == b"m" * size
                    assert two.get(name) == b"n" * size
                assert two.get(name) is None
        finally:
            one.close()
            two.close()


@pytest.mark.parametrize("size", [2, 3])
def test_commands_hear_from_every_broker(tmp_path: Path, size: int) -> None:
    """For these lists each broker sends its part to the node of the command."""
    with cluster(tmp_path, size, named=GatewayThread) as brokers, ExitStack() as stack:
        for number, broker in enumerate(brokers):
            client = Amqp(broker.amqp_port, PATIENCE)
            stack.callback(client.close)
            client.declare(f"queue-{number}", {"x-queue-type": "classic"})
            client.consume(f"queue-{number}")
        wanted = {f"queue-{number}" for number in range(size)}
        for broker in (brokers[0], brokers[-1]):
            queues = broker.listed("list_queues", "name")
            assert {queue["name"] for queue in queues} == wanted
            consumers = broker.listed("list_consumers", "queue_name")
            assert {consumer["queue_name"] for consumer in consumers} == wanted
            assert len(broker.listed("list_connections", "pid")) == size
            assert len(broker.listed("list_channels", "pid")) == size


class Publisher(threading.Thread):
    """Publishes messages in turn, each confirmed or abandoned before the next."""

    def __init__(self, port: int, queue: str, name: str) -> None:
        super().__init__(name=name)
        self._port = port
        self._queue = queue
        self.confirmed: set[bytes] = set()
        self._is_over = threading.Event()

    def run(self) -> None:
        client: Amqp | None = None
        number = 0
        while not self._is_over.is_set():
            try:
                if client is None:
                    client = Amqp(self._port, 5.0)
                    client.confirm()
                body = f"{self.name} {number}".encode()
                number += 1
                client.publish(self._queue, body)
                self.confirmed.add(body)
            except (OSError, AssertionError, struct.error):
                # The broker is paused or silent: retry with a new connection.
                if client is not None:
                    client.close()
                client = None
                self._is_over.wait(0.2)
        if client is not None:
            client.close()

    def stop(self) -> None:
        self._is_over.set()
        self.join()


def test_a_killed_gateway_that_comes_back_costs_no_confirmed_message(tmp_path: Path) -> None:
    gateways: list[GatewayProcess] = []

    def named(name: str) -> GatewayProcess:
        gateways.append(GatewayProcess(name))
        return gateways[-1]

    with cluster(tmp_path, 3, named=named) as brokers, ExitStack() as stack:
        names = {broker.name for broker in brokers}
        client = Amqp(brokers[0].amqp_port, PATIENCE)
        stack.callback(client.close)
        client.declare("kept", {"x-queue-type": "quorum"})
        publishers = [Publisher(broker.amqp_port, "kept", broker.name) for broker in brokers]
        for publisher in publishers:
            publisher.start()
            stack.callback(publisher.stop)

        def each_confirms_more(some: list[Publisher], more: int = 50) -> None:
            before = [len(publisher.confirmed) for publisher in some]
            wait_until(
                lambda: all(
                    len(publisher.confirmed) >= was + more
                    for publisher, was in zip(some, before, strict=True)
                )
            )

        each_confirms_more(publishers)
        gateways[2].kill()
        wait_until(lambda: set(brokers[0].running()) == names - {brokers[2].name})
        each_confirms_more(publishers[:2])
        gateways[2].restart()
        wait_until(lambda: set(brokers[0].running()) == names)
        each_confirms_more(publishers)
        for publisher in publishers:
            publisher.stop()

        confirmed = set().union(*(publisher.confirmed for publisher in publishers))
        got = set(iter(lambda: client.get("kept"), None))
        assert confirmed - got == set()
