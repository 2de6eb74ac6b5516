"""The relays of `via`, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from quicdist.carriers.base import DialError
from quicdist.carriers.relay.client import RelayAddress
from quicdist.cluster.dns import ServiceRecord
from quicdist.cluster.lookup import NotFound
from quicdist.cluster.relays import addresses_of
from quicdist.cluster.via import RelayDomain, parse_via

FLEET = RelayDomain("relays.example.org")


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> list[ServiceRecord]:
    """What DNS answers."""
    found: list[ServiceRecord] = []

    async def answer(question: str, timeout: float) -> Sequence[ServiceRecord]:
        assert question == "_quicdist-relay._udp.relays.example.org"
        if not found:
            raise NotFound("DNS has no such name")
        return found

    monkeypatch.setattr("quicdist.cluster.relays.service_records", answer)
    return found


async def test_a_node_gets_the_same_relay_of_a_fleet_again(records: list[ServiceRecord]) -> None:
    records += [ServiceRecord(f"r{number}.example.org", 4433, 1) for number in range(4)]
    first = await addresses_of((FLEET,), "a key")
    records.reverse()
    assert await addresses_of((FLEET,), "a key") == first


async def test_nodes_spread_over_the_relays_of_one_priority(records: list[ServiceRecord]) -> None:
    records += [ServiceRecord(f"r{number}.example.org", 4433, 1) for number in range(4)]
    used = {(await addresses_of((FLEET,), f"key {number}"))[0].host for number in range(50)}
    assert len(used) == 4


async def test_a_lower_priority_comes_first(records: list[ServiceRecord]) -> None:
    records += [ServiceRecord("spare", 4433, 2), ServiceRecord("main", 4433, 1)]
    for number in range(10):
        found = await addresses_of((FLEET,), f"key {number}")
        assert [one.host for one in found] == ["main", "spare"]


async def test_relays_are_tried_in_the_order_given(records: list[ServiceRecord]) -> None:
    records.append(ServiceRecord("main", 1, 1))
    relays = parse_via(["2@first", "relays.example.org", "3@last"])
    found = await addresses_of(relays, "key")
    expected = [RelayAddress("first", 2), RelayAddress("main", 1), RelayAddress("last", 3)]
    assert found == expected


@pytest.mark.usefixtures("records")
async def test_a_domain_without_records_is_an_error() -> None:
    with pytest.raises(DialError, match="DNS has no such name"):
        await addresses_of((FLEET,), "key")
