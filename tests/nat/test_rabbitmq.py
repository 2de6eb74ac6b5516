"""A RabbitMQ cluster of two brokers behind symmetric NATs, whose connection stays on the relay."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from quicdist.gateway import erl_arguments
from tests.gateway.amqp import Amqp
from tests.gateway.brokers import NEEDS_RABBITMQ, Broker, join
from tests.nat.conftest import Gateways, Sites
from tests.nat.kinds import DOUBLE_SYMMETRIC, SYMMETRIC
from tests.support.waiting import PATIENCE

pytestmark = [*NEEDS_RABBITMQ, pytest.mark.slow]


def test_a_cluster_forms_and_passes_messages(
    sites: Sites, gateways: Gateways, tmp_path: Path
) -> None:
    both = sites(DOUBLE_SYMMETRIC, 0), sites(SYMMETRIC, 1)
    with ExitStack() as stack:
        brokers = []
        for site in both:
            up = gateways(site)
            broker = Broker(
                up["gateway"],
                tmp_path / f"broker{site.number}",
                "rabbitcookie",
                epmd_port=up["epmd_port"],
                epmd_module=" ".join(erl_arguments(tmp_path)),
                within=site.node.command,
            )
            stack.callback(broker.close)
            brokers.append(broker)
        join(brokers)
        assert set(brokers[0].running()) == {broker.name for broker in brokers}

        clients = []
        for site, broker in zip(both, brokers, strict=True):
            with site.node.entered():
                client = Amqp(broker.amqp_port, PATIENCE)
            stack.callback(client.close)
            client.confirm()
            clients.append(client)
        one, two = clients
        for name, kind in (("plain", "classic"), ("replicated", "quorum")):
            # The queue is on the broker that declared it; the other one publishes and gets as well.
            one.declare(name, {"x-queue-type": kind})
            for body in (b"m" * 10, b"n" * 1_000_000):
                two.publish(name, body)
                one.publish(name, body)
                assert two.get(name) == body
                assert one.get(name) == body
