"""A setting of a wrong type is rejected when it is given, with a text that names it."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quicdist import (
    Access,
    DnsSrv,
    Epmd,
    Identity,
    Lan,
    MailboxLimits,
    Node,
    NodeError,
    NodeLimits,
    Policy,
    Quic,
    Retry,
    SettingError,
    StreamWindow,
    Table,
    Tcp,
    Tls,
    Tracing,
    Trust,
    export,
)
from quicdist.carriers.trust import TrustBy
from quicdist.etf import Limits, Options
from quicdist.gateway import GatewaySettings, PeerRules
from quicdist.limits import (
    AdmissionLimits,
    CarrierLimits,
    ConnectionBounds,
    RelayLimits,
    SessionLimits,
)
from quicdist.otp import Child, GenServer, Supervisor, net_adm

OWN = Identity.ephemeral()

REQUIRED: dict[type, dict[str, Any]] = {
    Access: {},
    AdmissionLimits: {},
    CarrierLimits: {},
    Child: {"id": "a", "make": GenServer},
    ConnectionBounds: {},
    DnsSrv: {},
    Epmd: {},
    GatewaySettings: {"name": "1@127.0.0.1"},
    Identity: {"key": OWN.key, "certificate": OWN.certificate},
    Lan: {},
    Limits: {},
    MailboxLimits: {},
    NodeLimits: {},
    Options: {},
    PeerRules: {"nodes": ("*",)},
    Policy: {"peers": ()},
    Quic: {},
    RelayLimits: {},
    Retry: {},
    SessionLimits: {},
    StreamWindow: {},
    Table: {"addresses": {}},
    Tcp: {},
    Tls: {},
    Tracing: {},
    Trust: {"by": TrustBy.NOTHING},
}
"""The public settings, and the fields that have no default."""

FIELDS = [
    pytest.param(kind, field.name, id=f"{kind.__name__}.{field.name}")
    for kind in REQUIRED
    for field in dataclasses.fields(kind)
    if field.init
]


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_field_of_a_wrong_type(kind: type, name: str) -> None:
    given: Any = {**REQUIRED[kind], name: object()}
    is_literal = kind is Options and name in ("binaries", "strings", "none")
    with pytest.raises(ValueError if is_literal else TypeError, match=rf"\b{name}\b.*") as caught:
        kind(**given)
    assert is_literal or str(caught.value).endswith(("got object", "not object"))


PARAMETERS = sorted(set(Node.__init__.__annotations__) - {"return"})


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_argument_of_a_wrong_type(name: str) -> None:
    given: Any = {"name": "0@127.0.0.1", "cookie": "c", name: object()}
    with pytest.raises(TypeError, match=f"^invalid {name}=: expected .*, got object$"):
        Node(**given)


WRONG: list[tuple[Callable[[], object], str]] = [
    (
        lambda: Access(calls=["calc:*"]),  # type: ignore[arg-type]
        "invalid Access.calls: expected Mapping[str, Sequence[str]], got list",
    ),
    (
        lambda: Access(calls={"*": "calc:*"}),
        "invalid Access.calls['*']: expected Sequence[str], got str",
    ),
    (
        lambda: Access(calls={1: ["calc:*"]}),  # type: ignore[dict-item]
        "invalid Access.calls key: expected str, got int",
    ),
    (lambda: Access(accept="*"), "invalid Access.accept: expected Sequence[str], got str"),
    (
        lambda: Access(exits="*@10.0.0.7"),
        "invalid Access.exits: expected Sequence[str] | None, got str",
    ),
    (
        lambda: Access(accept=["*", 1]),  # type: ignore[list-item]
        "invalid Access.accept[1]: expected str, got int",
    ),
    (
        lambda: PeerRules(nodes="*"),  # type: ignore[arg-type]
        "invalid PeerRules.nodes: expected tuple[str, ...], got str",
    ),
    (
        lambda: Policy(PeerRules(nodes=("*",))),  # type: ignore[arg-type]
        "invalid Policy.peers: expected tuple[PeerRules, ...], got PeerRules",
    ),
    (lambda: Trust.first_use(uncertified="*@h"), "invalid Trust.uncertified: expected"),
    (lambda: Trust.pinned(["a"]), "invalid pins=: expected Mapping"),  # type: ignore[arg-type]
    (
        lambda: Trust.nothing().allowing_uncertified(["*"]),  # type: ignore[arg-type]
        "invalid Trust.uncertified[0]: expected str",
    ),
    (lambda: NodeLimits(net_ticktime="60"), "invalid NodeLimits.net_ticktime: expected float"),  # type: ignore[arg-type]
    (lambda: NodeLimits(threads=True), "invalid NodeLimits.threads: expected int, got bool"),
    (lambda: NodeLimits(threads=1.5), "invalid NodeLimits.threads: expected int, got float"),  # type: ignore[arg-type]
    (
        lambda: GatewaySettings("1@127.0.0.1", listen=("::", "1")),  # type: ignore[arg-type]
        "invalid GatewaySettings.listen[1]: expected int, got str",
    ),
    (
        lambda: GatewaySettings("1@127.0.0.1", routes={"a@b": ("h",)}),  # type: ignore[dict-item]
        "invalid GatewaySettings.routes['a@b']: expected tuple[str, int], got tuple",
    ),
    (
        lambda: Node("0@127.0.0.1", cookie="c", carriers=[Quic]),  # type: ignore[list-item]
        "invalid carriers=[0]: expected CarrierSettings, got the class Quic",
    ),
    (
        lambda: Node("0@127.0.0.1", cookie="c", lookups=Epmd()),  # type: ignore[arg-type]
        "invalid lookups=: expected Sequence[Lookup], got Epmd",
    ),
    (
        lambda: Supervisor(None, [GenServer]),  # type: ignore[list-item,arg-type]
        "invalid children=[0]: expected Child, got the class GenServer",
    ),
]


@pytest.mark.parametrize(("make", "text"), WRONG, ids=[text for _, text in WRONG])
def test_the_text_tells_what_is_expected_where(make: Callable[[], object], text: str) -> None:
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value).startswith(text)


def is_number(hint: Any) -> bool:
    """Whether the values of a field are numbers, or numbers and None."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if is_union else (hint,)
    return int in parts or float in parts


NUMBERS = [
    pytest.param(kind, field.name, id=f"{kind.__name__}.{field.name}")
    for kind in REQUIRED
    for field in dataclasses.fields(kind)
    if field.init and is_number(typing.get_type_hints(kind)[field.name])
]


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, -math.inf])
def test_a_number_that_makes_no_sense(kind: type, name: str, value: float) -> None:
    given: Any = {**REQUIRED[kind], name: value}
    # A float in place of an int is a TypeError.
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        kind(**given)


OUT_OF_RANGE: list[tuple[Callable[[], object], str]] = [
    (lambda: Tcp(port=99999), "invalid Tcp.port: expected 0 to 65535, got 99999"),
    (lambda: Epmd(port=0), "invalid Epmd.port: expected 1 to 65535, got 0"),
    (
        lambda: Node("0@127.0.0.1", cookie="c", listen=("::", 65536)),
        "invalid listen=[1]: expected 0 to 65535, got 65536",
    ),
    (
        lambda: GatewaySettings("1@127.0.0.1", routes={"a@b": ("h", 0)}),
        "invalid GatewaySettings.routes['a@b'][1]: expected 1 to 65535, got 0",
    ),
    (
        lambda: Retry(first=0),
        "invalid Retry.first: expected a finite number above 0, got 0",
    ),
    (
        lambda: Retry(attempts=0),
        "invalid Retry.attempts: expected a finite number of at least 1, got 0",
    ),
    (lambda: Retry(most=math.nan), "invalid Retry.most: expected a finite number above 0, got nan"),
    (
        lambda: Quic(max_datagram_size=500),
        "invalid Quic.max_datagram_size: expected 1200 to 65527, got 500",
    ),
    (
        lambda: NodeLimits(net_ticktime=0),
        "invalid NodeLimits.net_ticktime: expected a finite number above 0, got 0",
    ),
    (
        lambda: NodeLimits(threads=0),
        "invalid NodeLimits.threads: expected a finite number of at least 1, got 0",
    ),
    (lambda: NodeLimits(send_high=1), "send limits out of order: send_low <= send_high, got"),
    (lambda: MailboxLimits(high=1), "mailbox limits out of order: low <= high <= hard, got"),
    (
        lambda: Child("a", GenServer, shutdown=-1),
        "invalid Child.shutdown: expected a finite number of at least 0, got -1",
    ),
    (
        lambda: Supervisor(None, period=math.inf),  # type: ignore[arg-type]
        "invalid period=: expected a finite number above 0, got inf",
    ),
]


@pytest.mark.parametrize(("make", "text"), OUT_OF_RANGE, ids=[text for _, text in OUT_OF_RANGE])
def test_the_text_tells_the_range(make: Callable[[], object], text: str) -> None:
    with pytest.raises(SettingError) as caught:
        make()
    assert str(caught.value).startswith(text)
    assert isinstance(caught.value, (NodeError, ValueError))


@pytest.mark.parametrize("port", [-1, 0, 65536])
async def test_the_port_of_an_epmd(port: int) -> None:
    with pytest.raises(SettingError, match="invalid port=: expected 1 to 65535"):
        await net_adm.names(port=port)


WRONG_ARGUMENTS: list[tuple[Callable[[Any], object], str]] = [
    (lambda node: node.change_cookies("abc"), "invalid cookies=: expected Sequence[str], got str"),
    (lambda node: node.change_access(["*"]), "invalid access=: expected Access | "),
    (lambda _: export(run="thread"), "invalid run=: expected Run, got str"),  # type: ignore[call-overload]
    (lambda _: export(concurrency="3"), "invalid concurrency=: expected int | None, got str"),  # type: ignore[call-overload]
]


@pytest.mark.parametrize(("act", "text"), WRONG_ARGUMENTS)
def test_a_change_of_a_wrong_type_changes_nothing(act: Callable[[Any], object], text: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(text)}"):
        act(Node("0@127.0.0.1", cookie="c"))


async def test_a_retry_and_limits_of_a_wrong_type() -> None:
    node = Node("0@127.0.0.1", cookie="c")
    with pytest.raises(TypeError, match=r"invalid retry=: expected .*, got bool"):
        await node.connect("1@127.0.0.1", retry=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"invalid limits=: expected .*, got dict"):
        async with node.mailbox(limits={}):  # type: ignore[arg-type]
            pass


def test_no_text_contains_a_secret() -> None:
    with pytest.raises(TypeError) as caught:
        Node("0@127.0.0.1", cookie=["secret", b"secret"])  # type: ignore[list-item]
    assert str(caught.value) == "invalid cookie=[1]: expected str, got bytes"


def test_what_fits_is_accepted() -> None:
    assert PeerRules(nodes=["*"]).fits("a@b")  # type: ignore[arg-type]
    assert NodeLimits(net_ticktime=60, threads=np.int64(2)).threads == 2  # type: ignore[arg-type]
    assert NodeLimits(connect_timeout=np.float32(1.5)).connect_timeout == 1.5  # type: ignore[arg-type]
    Node("0@127.0.0.1", cookie=("a", "b"), access=Path("/dev/null") and None, listen="h:1")
    Node("0@127.0.0.1", cookie="c", exports=iter([]), on_output=print)
