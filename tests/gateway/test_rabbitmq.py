"""A RabbitMQ cluster of two nodes, each behind its gateway.

Their names carry 127.0.0.2 and 127.0.0.3, where no gateway's EPMD port is: as with the real
addresses of two machines, whatever would ask an EPMD there gets no answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from quicdist.gateway import erl_arguments
from tests.gateway.amqp import Amqp
from tests.support.gatewayed import GatewayThread, module_directory
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

_SCRIPTS = Path("/usr/lib/rabbitmq/bin")

pytestmark = [
    pytest.mark.erlang,
    pytest.mark.skipif(
        not (_SCRIPTS / "rabbitmq-server").exists(),
        reason="no RabbitMQ: sudo apt-get install rabbitmq-server",
    ),
]


class Broker:
    """Debian's RabbitMQ in a directory of its own, behind a gateway."""

    def __init__(self, gateway: GatewayThread, home: Path, cookie: str) -> None:
        self.name = gateway.name
        self.amqp_port = free_port()
        distribution_port = free_port()
        home.mkdir()
        cookie_file = home / ".erlang.cookie"
        cookie_file.write_text(cookie)
        cookie_file.chmod(0o400)
        (home / "rabbitmq.conf").write_text("log.console.level = info\n")
        # What quicdist/gateway/README.md tells to put there.
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
        """What `rabbitmqctl` prints."""
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

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while b"Server startup complete" not in self._output.read_bytes():
            assert self._process.poll() is None, self._output.read_text()
            assert time.monotonic() < deadline, self._output.read_text()
            time.sleep(0.2)

    def close(self) -> None:
        # The script passes no SIGKILL on to the Erlang it started: its whole session goes.
        os.killpg(self._process.pid, 9)
        self._process.wait()
        self._log.close()


@contextmanager
def two_brokers(directory: Path) -> Iterator[tuple[Broker, Broker]]:
    with ExitStack() as stack:
        brokers = []
        for host in ("127.0.0.2", "127.0.0.3"):
            gateway = stack.enter_context(GatewayThread(f"{free_port(host)}@{host}"))
            broker = Broker(gateway, directory / host, "rabbitcookie")
            stack.callback(broker.close)
            brokers.append(broker)
        for broker in brokers:
            broker.wait_until_up()
        yield brokers[0], brokers[1]


def test_a_cluster_forms_and_passes_messages(tmp_path: Path) -> None:
    with two_brokers(tmp_path) as (first, second):
        second.control("stop_app")
        second.control("join_cluster", first.name)
        second.control("start_app")
        status = json.loads(second.control("-q", "--formatter", "json", "cluster_status"))
        assert set(status["running_nodes"]) == {first.name, second.name}

        one, two = Amqp(first.amqp_port, PATIENCE), Amqp(second.amqp_port, PATIENCE)
        try:
            one.confirm()
            two.confirm()
            for name, kind in (("plain", "classic"), ("replicated", "quorum")):
                # The queue lives where it was declared; the other node publishes and gets.
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
