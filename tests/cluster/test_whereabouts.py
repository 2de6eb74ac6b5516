"""Whether a node with a private address in its name can be dialed from here."""

from __future__ import annotations

import asyncio
import socket

import pytest

from quicdist.carriers.base import CertificateRejected, DialError
from quicdist.cluster import whereabouts
from quicdist.cluster.whereabouts import Whereabouts
from quicdist.errors import Cause
from tests.support.waiting import PATIENCE

NATED = "4433@192.168.1.5"
HOST = "192.168.1.5"


def default_route(host: str) -> int:
    return 0


def own_network(host: str) -> int:
    return 24


def test_a_private_address_behind_the_default_route_is_doubted() -> None:
    doubt = Whereabouts(default_route).doubt(NATED, HOST)
    assert doubt is not None
    assert "private address outside the networks of this host" in doubt
    assert "via" in doubt


@pytest.mark.parametrize("host", ["203.0.113.10", "host1", "2001:db8::1"])
def test_a_global_address_is_not_doubted(host: str) -> None:
    assert Whereabouts(default_route).doubt(f"4433@{host}", host) is None


def test_an_address_of_an_own_or_unknown_network_is_not_doubted() -> None:
    assert Whereabouts(own_network).doubt(NATED, HOST) is None
    assert Whereabouts(lambda host: None).doubt(NATED, HOST) is None


def test_a_host_that_was_reached_is_not_doubted() -> None:
    known = Whereabouts(default_route)
    known.reached(HOST)
    assert known.doubt(NATED, HOST) is None


def test_a_node_that_connected_from_elsewhere_is_behind_a_nat() -> None:
    known = Whereabouts(own_network)
    known.connected_from(NATED, "203.0.113.21")
    doubt = known.doubt(NATED, HOST)
    assert doubt is not None
    assert "203.0.113.21" in doubt
    assert known.doubt(NATED, "10.0.0.9") is None  # a lookup has another address of it
    known.connected_from(NATED, HOST)
    assert known.doubt(NATED, HOST) is None


def test_another_host_with_the_same_private_address_has_not_changed_its_key() -> None:
    known = Whereabouts(own_network)
    changed = CertificateRejected("the key has changed", Cause.KEY_CHANGED)
    assert known.explained(NATED, HOST, changed) is changed
    known.connected_from(NATED, "203.0.113.21")
    explained = known.explained(NATED, HOST, changed)
    assert explained.cause is Cause.NAME_AMBIGUOUS
    assert "203.0.113.21" in str(explained)
    other = CertificateRejected("expired", Cause.CERTIFICATE_THEIRS)
    assert known.explained(NATED, HOST, other) is other


def test_what_is_remembered_is_bounded() -> None:
    known = Whereabouts(own_network)
    for port in range(5000):
        known.connected_from(f"{port}@192.168.1.5", "203.0.113.21")
        known.reached(f"10.0.{port % 250}.{port // 250}")
    assert len(known._elsewhere) <= 1024
    assert len(known._reached) <= 1024


async def hang() -> None:
    await asyncio.Event().wait()


@pytest.mark.io
async def test_a_silent_host_is_given_up_early() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(whereabouts, "_PROBE_PORTS", (port, port))
            with pytest.raises(DialError, match="nothing answers: doubt") as failed:
                await whereabouts.dial(hang(), "127.0.0.1", "doubt")
    assert failed.value.cause is Cause.BEHIND_NAT


@pytest.mark.io
async def test_a_host_that_shows_a_sign_of_life_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_alive, found = asyncio.Event(), whereabouts._answers

    async def answers(dialing: asyncio.Future[str], host: str) -> bool:
        assert await found(dialing, host)
        is_alive.set()
        return True

    async def slow() -> str:
        await is_alive.wait()
        return "connected"

    monkeypatch.setattr(whereabouts, "_answers", answers)
    monkeypatch.setattr(whereabouts, "_PATIENCE", PATIENCE)
    # The ports for probes are closed on this machine, so its kernel answers.
    assert await whereabouts.dial(slow(), "127.0.0.1", "doubt") == "connected"


async def test_no_route_is_explained() -> None:
    async def fails() -> None:
        raise DialError("network is unreachable", Cause.UNREACHABLE)

    with pytest.raises(DialError, match="network is unreachable"):
        await whereabouts.dial(fails(), "127.0.0.1", None)


@pytest.mark.io
@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (Cause.UNREACHABLE, Cause.BEHIND_NAT),
        (Cause.NO_ANSWER, Cause.BEHIND_NAT),
        (Cause.EPMD_UNREACHABLE, Cause.BEHIND_NAT),
        (Cause.PORT_CLOSED, Cause.PORT_CLOSED),
        (Cause.ALPN, Cause.ALPN),
    ],
)
async def test_only_silence_is_explained_by_a_nat(cause: Cause, told: Cause) -> None:
    async def fails() -> None:
        raise DialError("failed", cause)

    with pytest.raises(DialError) as failed:
        await whereabouts.dial(fails(), "127.0.0.1", "doubt")
    assert failed.value.cause is told
