"""What the doctor tells about a NAT, in network namespaces."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nat.two_homes import INSIDE, SERVER, TwoHomes, why_not

pytestmark = pytest.mark.io

HUB = f"4433@{SERVER}"
SECOND = "4434@203.0.113.11"
RELAY_PORT = 4435
RELAY = f"{RELAY_PORT}@203.0.113.11"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoHomes]:
    if why := why_not():
        pytest.skip(f"no bad networks on this machine: {why}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("QUICDIST_COOKIE", "c")
    with TwoHomes() as homes:
        homes.run("s", "ip", "addr", "add", "203.0.113.11/24", "dev", "eth0")
        for name in (HUB, SECOND):
            node = homes.start("s", "-m", "quicdist", "listen", name)
            assert node.stdout is not None
            assert any("is up" in line for line in node.stdout), name
        yield homes


def doctor(lab: TwoHomes, space: str, *words: str) -> str:
    """Returns the last line of the examination of the hub."""
    told = lab.run(space, sys.executable, "-m", "quicdist", "doctor", HUB, *words)
    return told.splitlines()[-1]


def test_a_host_without_a_nat(lab: TwoHomes) -> None:
    assert doctor(lab, "na").endswith("no NAT in between")


def test_a_host_behind_a_nat(lab: TwoHomes) -> None:
    told = doctor(lab, "a")
    assert f"from {INSIDE}:" in told
    assert f"{HUB} sees 203.0.113.21:" in told
    assert "a NAT that keeps the port" in told
    assert "--via" in told


def test_two_observers_tell_whether_it_is_symmetric(lab: TwoHomes) -> None:
    assert "endpoint-independent mapping" in doctor(lab, "a", "--observer", SECOND)
    lab.use_symmetric_nat("na")
    assert "symmetric" in doctor(lab, "a", "--observer", SECOND)


def test_a_relay_sees_a_nat_and_observes_for_another_node(lab: TwoHomes) -> None:
    relay = lab.start("s", "-m", "quicdist", "relay", f"203.0.113.11:{RELAY_PORT}")
    assert relay.stdout is not None
    assert any("is up" in line for line in relay.stdout)
    told = lab.run("a", sys.executable, "-m", "quicdist", "doctor", RELAY).splitlines()[-1]
    assert f"{RELAY} sees 203.0.113.21:" in told
    assert "a NAT that keeps the port" in told
    assert "endpoint-independent mapping" in doctor(lab, "a", "--observer", RELAY)
    lab.use_symmetric_nat("na")
    assert "symmetric" in doctor(lab, "a", "--observer", RELAY)


def test_a_private_name_of_another_network_stops_at_the_port(lab: TwoHomes) -> None:
    with pytest.raises(RuntimeError, match=r"port.*behind a NAT.*--via"):
        lab.run("s", sys.executable, "-m", "quicdist", "doctor", f"4433@{INSIDE}")
