"""What systemd reads from the socket of a unit with Type=notify."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from quicdist.cli.systemd import notify, watchdog_interval
from tests.cli.conftest import CALC, Command, end
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE


class Manager:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(PATIENCE)

    def next(self) -> str:
        return self.socket.recv(4096).decode()

    def until(self, state: str) -> list[str]:
        """Returns the states before `state`."""
        before: list[str] = []
        while (one := self.next()) != state:
            before.append(one)
        return before


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    one = Manager(str(tmp_path / "notify"))
    with contextlib.closing(one.socket):
        yield one


@pytest.fixture
def notified(quicdist: Command) -> Command:
    """A command whose service manager has the socket of `manager`."""
    quicdist.environment["NOTIFY_SOCKET"] = str(quicdist.home / "notify")
    (quicdist.home / "calc.py").write_text(CALC)
    return quicdist


@pytest.mark.io
def test_a_node_reports_that_it_is_ready_and_that_it_stops(
    manager: Manager, notified: Command
) -> None:
    with notified.node("run", "0@127.0.0.1", "calc") as (name, process):
        assert manager.next() == "READY=1"
        assert notified("ping", name).out == "pong\n"
        process.send_signal(signal.SIGTERM)
        assert manager.next() == "STOPPING=1"
        assert process.wait(PATIENCE) == 0


@pytest.mark.io
def test_a_node_gives_signs_of_life(manager: Manager, notified: Command) -> None:
    notified.environment["WATCHDOG_USEC"] = "20000"
    with notified.node("listen", "0@127.0.0.1") as (_, process):
        assert manager.until("READY=1") == []
        assert [manager.next() for _ in range(3)] == ["WATCHDOG=1"] * 3
        assert end(process).code == 0
        assert set(manager.until("STOPPING=1")) <= {"WATCHDOG=1"}


@pytest.mark.io
def test_a_gateway_reports_too(manager: Manager, notified: Command) -> None:
    name = f"{free_port()}@127.0.0.1"
    with notified.started("gateway", name, "--epmd-port", "0") as process:
        assert manager.next() == "READY=1"
        assert end(process).code == 0
        assert manager.next() == "STOPPING=1"


@pytest.mark.io
def test_a_relay_reports_and_is_ready(manager: Manager, notified: Command) -> None:
    address = f"127.0.0.1:{free_port()}"
    with notified.started("relay", address, "--http", "0") as process:
        assert manager.next() == "READY=1"
        assert process.stderr is not None
        url = next(line.split()[-1] for line in process.stderr if "metrics are at" in line)
        with urllib.request.urlopen(url.replace("/metrics", "/readyz")) as answer:
            assert answer.read() == b"ready\n"
        assert end(process).code == 0
        assert manager.next() == "STOPPING=1"


@pytest.mark.io
def test_a_name_in_the_abstract_namespace() -> None:
    name = f"quicdist-test-{os.getpid()}"
    with contextlib.closing((one := Manager(f"\0{name}")).socket):
        assert notify("READY=1", {"NOTIFY_SOCKET": f"@{name}"})
        assert one.next() == "READY=1"


@pytest.mark.io
@pytest.mark.parametrize("path", ["/nowhere/notify", "@no-such-socket"])
def test_a_manager_that_is_gone_costs_nothing(path: str) -> None:
    assert not notify("READY=1", {"NOTIFY_SOCKET": path})


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "relative"}])
def test_nothing_is_sent_outside_of_systemd(environment: Mapping[str, str]) -> None:
    assert not notify("READY=1", environment)


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_interval_is_half_of_that_of_the_unit(
    environment: Mapping[str, str], seconds: float | None
) -> None:
    assert watchdog_interval(environment) == seconds
