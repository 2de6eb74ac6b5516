"""Nodes of the local network: the records of an announcement, also of a hostile one."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import zeroconf.asyncio  # importing it starts a process, ldconfig
from hypothesis import given
from hypothesis import strategies as st

from quicdist import Lan, LanNode, Node, NodeNameError
from quicdist.cluster import lan as lan_module
from quicdist.cluster.carrier import Transport, TransportAddress
from quicdist.cluster.lan import LocalHosts, check_announced, is_local_name, label_of, read_node
from quicdist.cluster.lookup import NotFound
from quicdist.cluster.names import NodeName
from quicdist.extras import MissingExtra
from quicdist.gateway import GatewaySettings

NODE = {b"node": b"4433@10.0.0.7", b"name": b"app"}


def test_an_announcement_is_read() -> None:
    assert read_node(NODE, ["10.0.0.7", "fd00::7"], 4433) == LanNode(
        "4433@10.0.0.7", "app", ("10.0.0.7", "fd00::7"), 4433
    )


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {b"node": None},
        {b"node": b"\xff@h"},
        {b"node": b"no-host"},
        {b"node": b"a@" + b"h" * 255},
        {b"node": b"a@b@c"},
    ],
)
def test_records_without_a_node_name_are_ignored(properties: dict[bytes, bytes | None]) -> None:
    assert read_node(properties, ["10.0.0.7"], 4433) is None


@pytest.mark.parametrize(
    ("addresses", "port"),
    [
        ([], 4433),
        (["224.0.0.251"], 4433),
        (["0.0.0.0"], 4433),
        (["255.255.255.255"], 4433),
        (["x"], 4433),
        (["10.0.0.7"], None),
        (["10.0.0.7"], 0),
        (["10.0.0.7"], 65536),
    ],
)
def test_addresses_that_no_single_host_has_are_ignored(
    addresses: list[str], port: int | None
) -> None:
    assert read_node(NODE, addresses, port) is None


def test_few_addresses_are_used() -> None:
    found = read_node(NODE, [f"10.0.0.{one}" for one in range(100)], 4433)
    assert found is not None
    assert len(found.addresses) == 4


def test_a_short_name_that_could_not_be_set_is_dropped() -> None:
    found = read_node({**NODE, b"name": b"\x1b[2J"}, ["10.0.0.7"], 4433)
    assert found is not None
    assert found.name == ""


@given(
    st.dictionaries(st.binary(max_size=8) | st.just(b"node"), st.none() | st.binary()),
    st.lists(st.text()),
    st.none() | st.integers(),
)
def test_any_records_are_read_or_ignored(
    properties: dict[bytes, bytes | None], addresses: list[str], port: int | None
) -> None:
    found = read_node(properties, addresses, port)
    assert found is None or NodeName.parse(found.node)


@given(st.text())
def test_every_node_name_has_a_label(node: str) -> None:
    label = label_of(node)
    assert 0 < len(label.encode()) <= 63
    assert "." not in label
    assert label != label_of(f"{node}x")


@pytest.mark.parametrize("name", ["-app", "a b", "app\n", "é", "a" * 64, "a@b"])
def test_short_names_are_checked(name: str) -> None:
    with pytest.raises(NodeNameError, match="invalid short name"):
        Lan(name)


def test_only_nodes_on_quic_are_announced() -> None:
    with pytest.raises(NodeNameError, match="cannot be announced"):
        Node("py@host1", cookie="c", lan=Lan("app"))
    check_announced("4433@robot.local")


async def test_a_name_with_an_address_is_not_looked_up() -> None:
    found = [TransportAddress(Transport.QUIC, "10.0.0.7", 4433)]
    assert await Lan().find(NodeName.parse("4433@10.0.0.7"), 1.0) == found
    with pytest.raises(NotFound, match="no port"):
        await Lan().find(NodeName.parse("0@10.0.0.7"), 1.0)


async def test_other_hosts_are_not_looked_up_first() -> None:
    assert is_local_name("Robot.LOCAL")
    with pytest.raises(NotFound, match=r"only hosts in \.local"):
        await LocalHosts(Lan()).find(NodeName.parse("py@host1"), 1.0)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf.asyncio", None)
    with pytest.raises(MissingExtra, match=r"pip install 'quicdist\[lan\]'"):
        Lan("app")


def test_a_gateway_takes_the_same_setting() -> None:
    assert GatewaySettings("5555@10.0.0.7", lan=Lan("app")).lan == Lan("app")


class Answers:
    """A question of zeroconf in one form. It is answered after a time, if it waits that long."""

    def __init__(self, times: dict[Any, float]) -> None:
        self._times = times
        self.asked: Any = ""

    async def async_request(self, zc: object, timeout: float, question_type: Any) -> bool:
        self.asked = question_type
        needed = self._times[question_type]
        await asyncio.sleep(min(needed, timeout / 1000))
        return needed <= timeout / 1000


class Sockets:
    zeroconf = None


QM = zeroconf.DNSQuestionType.QM


@pytest.mark.virtual_clock
@pytest.mark.parametrize(
    ("to_all", "to_one", "asked", "after"),
    [
        (0.1, math.inf, QM, 0.1),  # another process got the answer to this machine
        (1.12, math.inf, QM, 1.12),
        (1.12, 0.0, None, 0.0),  # the same records were sent to all within the last second
        (math.inf, 0.3, None, 0.3),
        (math.inf, math.inf, "", 2.5),
    ],
)
async def test_each_question_is_asked_in_two_forms(
    to_all: float, to_one: float, asked: Any, after: float
) -> None:
    clock = asyncio.get_running_loop().time
    begun = clock()
    found = await lan_module._answer(Sockets, lambda: Answers({QM: to_all, None: to_one}), 2.5)
    assert clock() - begun == pytest.approx(after)
    assert ("" if found is None else found.asked) == asked


ROBOT = LanNode("4433@robot.local", "", ("10.0.0.7",), 4433)


@pytest.mark.virtual_clock
@pytest.mark.parametrize(
    ("node", "node_time", "host", "host_time", "answer", "after"),
    [
        (ROBOT, 0.1, ["10.0.0.8"], 0.0, (ROBOT, ()), 0.1),
        (ROBOT, 0.1, [], 2.5, (ROBOT, ()), 0.1),
        (ROBOT, 1.12, [], 1.0, (ROBOT, ()), 1.12),
        (None, 2.5, ["10.0.0.8"], 0.1, (None, ["10.0.0.8"]), 0.6),
        (None, 0.1, ["10.0.0.8"], 1.12, (None, ["10.0.0.8"]), 1.12),
        (None, 2.5, [], 2.5, (None, []), 2.5),
    ],
)
async def test_an_announcement_has_precedence_over_its_host(
    node: LanNode | None,
    node_time: float,
    host: Sequence[str],
    host_time: float,
    answer: tuple[LanNode | None, Sequence[str]],
    after: float,
) -> None:
    async def asking() -> LanNode | None:
        await asyncio.sleep(node_time)
        return node

    async def hosting() -> Sequence[str]:
        await asyncio.sleep(host_time)
        return host

    clock = asyncio.get_running_loop().time
    begun = clock()
    assert await lan_module._announced_or_host(asking(), hosting()) == answer
    assert clock() - begun == pytest.approx(after)
