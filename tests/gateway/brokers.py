"""RabbitMQ clusters, each broker behind its gateway or over TCP.

The names of brokers behind gateways contain 127.0.0.2 and 127.0.0.3, where no gateway has an EPMD
port. As with the real addresses of two machines, EPMD queries to these addresses get no answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from quicdist.gateway import erl_arguments
from tests.support.erlang import ERL
from tests.support.gatewayed import GatewayProcess, GatewayThread, module_directory
from tests.support.named import RealEpmd
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

SCRIPTS = Path("/usr/lib/rabbitmq/bin")

NEEDS_RABBITMQ = [
    pytest.mark.erlang,
    pytest.mark.skipif(
        not (SCRIPTS / "rabbitmq-server").exists(),
        reason="no RabbitMQ: sudo apt-get install rabbitmq-server",
    ),
    pytest.mark.skipif(ERL != "erl", reason="RabbitMQ runs on the Erlang that it is packaged with"),
]


class Broker:
    """Debian's RabbitMQ in a separate directory."""

    def __init__(
        self,
        name: str,
        home: Path,
        cookie: str,
        *,
        epmd_port: int,
        epmd_module: str = "",
        within: Callable[[Sequence[str]], list[str]] = list,
    ) -> None:
        """`epmd_module` are the arguments for a broker behind a gateway.

        `within` returns the command that runs a command where the broker runs.
        """
        self._within = within
        self.name = name
        self.amqp_port = free_port()
        distribution_port = free_port()
        home.mkdir()
        self.pid_file = home / "pid"
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
            f"export ERL_EPMD_PORT={epmd_port}\n"
            + (
                f'SERVER_ADDITIONAL_ERL_ARGS="-erl_epmd_port {distribution_port}"\n'
                f'export ERL_AFLAGS="{epmd_module}"\n'
                if epmd_module
                else ""
            )
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
            "RABBITMQ_PID_FILE": str(self.pid_file),
            "RABBITMQ_CONF_ENV_FILE": str(home / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "config"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(home / "feature_flags"),
        }
        self._log = (home / "output").open("wb")
        self._process = subprocess.Popen(
            within([str(SCRIPTS / "rabbitmq-server")]),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._output = home / "output"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs `rabbitmqctl`."""
        return subprocess.run(
            self._within([str(SCRIPTS / "rabbitmqctl"), *words]),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def control(self, *words: str) -> str:
        """Returns the output of `rabbitmqctl`."""
        done = self.run(*words)
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
    flags = " ".join(erl_arguments(module_directory()))
    with ExitStack() as stack:
        brokers = []
        for host in _hosts(size):
            gateway = named(f"{free_port(host)}@{host}")
            stack.callback(gateway.close)
            broker = Broker(
                gateway.name,
                directory / host,
                "rabbitcookie",
                epmd_port=gateway.epmd_port,
                epmd_module=flags,
            )
            stack.callback(broker.close)
            brokers.append(broker)
        join(brokers)
        yield brokers


@contextmanager
def cluster_over_tcp(directory: Path, size: int) -> Iterator[list[Broker]]:
    """Starts brokers with Erlang's own distribution."""
    with RealEpmd(addresses=",".join(_hosts(size))) as epmd, ExitStack() as stack:
        brokers = []
        for number, host in enumerate(_hosts(size)):
            broker = Broker(
                f"rabbit{number}@{host}", directory / host, "rabbitcookie", epmd_port=epmd.port
            )
            stack.callback(broker.close)
            brokers.append(broker)
        join(brokers)
        yield brokers


def _hosts(size: int) -> list[str]:
    return [f"127.0.0.{2 + number}" for number in range(size)]


def join(brokers: Sequence[Broker]) -> None:
    """Makes one cluster of brokers that start."""
    for broker in brokers:
        broker.wait_until_up()
    for broker in brokers[1:]:
        broker.control("stop_app")
        broker.control("join_cluster", brokers[0].name)
        broker.control("start_app")
