"""A RabbitMQ cluster of two nodes, each behind its gateway.

Their names contain 127.0.0.2 and 127.0.0.3, where no gateway has an EPMD port. As with the real
addresses of two machines, EPMD queries to these addresses get no answer.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from quicdist.gateway import erl_arguments
from tests.gateway.amqp import Amqp
from tests.support.erlang import ERL
from tests.support.gatewayed import GatewayProcess, GatewayThread, module_directory
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, wait_until

_SCRIPTS = Path("/usr/lib/rabbitmq/bin")

pytestmark = [
    pytest.mark.erlang,
    pytest.mark.skipif(
        not (_SCRIPTS / "rabbitmq-server").exists(),
        reason="no RabbitMQ: sudo apt-get install rabbitmq-server",
    ),
    pytest.mark.skipif(ERL != "erl", reason="RabbitMQ runs on the Erlang that it is packaged with"),
]


class Broker:
    """Debian's RabbitMQ in a separate directory, behind a gateway."""

    def __init__(self, gateway: GatewayThread | GatewayProcess, home: Path, cookie: str) -> None:
        self.name = gateway.name
        self.amqp_port = free_port()
        distribution_port = free_port()
        home.mkdir()
        cookie_file = home / ".erlang.cookie"
        cookie_file.write_text(cookie)
        cookie_file.chmod(0o400)
        (home / "rabbitmq.conf").write_text(
            "log.console.level = info\ncluster_partition_handling = pause_minority\n"
        )
        # The settings that quicdist/gateway/README.md documents.
        (home / "rabbitmq-env.conf").write_text(
            f"NODENAME={self.name}\n"
            "USE_LONGNAME=true\n"
            f'SERVER_ADDITIONAL_ERL_ARGS="-erl_epmd_port {distribution_port}"\n'
            f"export ERL_EPMD_PORT={gateway.epmd_port}\n"
            f'export ERL_AFLAGS="{" ".join(erl_arguments(module_directory()))}"\n'
        )
        (home / "enabled_plugins").write_text("[].\n")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.amqp_port),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_CTL_DIST_PORT_MIN": "1024",
            "RABBITMQ_CTL_DIST_PORT_MAX": "65535",
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_CONF_ENV_FILE": str(home / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "config"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(home / "feature_flags"),
        }
        self._log = (home / "output").open("wb")
        self._process = subprocess.Popen(
            [str(_SCRIPTS / "rabbitmq-server")],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._output = home / "output"

    def control(self, *words: str) -> str:
        """Returns the output of `rabbitmqctl`."""
        done = subprocess.run(
            [str(_SCRIPTS / "rabbitmqctl"), *words],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def listed(self, *words: str) -> list[dict[str, str]]:
        """Returns the rows of a `rabbitmqctl` list command, partial after its timeout."""
        found: list[dict[str, str]] = json.loads(
            self.control("-q", "--timeout", "30", "--formatter", "json", *words)
        )
        return found

    def running(self) -> list[str]:
        """Returns the running brokers of the cluster as seen by this one."""
        status = json.loads(self.control("-q", "--formatter", "json", "cluster_status"))
        found: list[str] = status["running_nodes"]
        return found

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while b"Server startup complete" not in self._output.read_bytes():
            assert self._process.poll() is None, self._output.read_text()
            assert time.monotonic() < deadline, self._output.read_text()
            time.sleep(0.2)

    def close(self) -> None:
        # SIGKILL does not reach the Erlang that the script started, so kill its whole session.
        os.killpg(self._process.pid, 9)
        self._process.wait()
        self._log.close()


@contextmanager
def cluster(
    directory: Path, size: int, *, named: Callable[[str], GatewayThread | GatewayProcess]
) -> Iterator[list[Broker]]:
    """Starts brokers behind gateways created by `named`."""
    with ExitStack() as stack:
        brokers = []
        for number in range(size):
            host = f"127.0.0.{2 + number}"
            gateway = named(f"{free_port(host)}@{host}")
            stack.callback(gateway.close)
            broker = Broker(gateway, directory / host, "rabbitcookie")
            stack.callback(broker.close)
            brokers.append(broker)
        for broker in brokers:
            broker.wait_until_up()
        for broker in brokers[1:]:
            broker.control("stop_app")
            broker.control("join_cluster", brokers[0].name)
            broker.control("start_app")
        yield brokers


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
