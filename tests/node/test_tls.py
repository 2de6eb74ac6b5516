"""Nodes over TLS: between two quicdist nodes, and with stock Erlang and `-proto_dist inet_tls`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from quicdist import Identity, NoConnection, Node, Quic, StartError, Tcp, Tls, Trust
from quicdist.carriers.trust import Credentials
from tests.carriers.test_trust import Authority, write
from tests.node import exported
from tests.node.conftest import COOKIE, Beam, atom
from tests.support.named import RealEpmd, named_erl
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.io


@dataclass(frozen=True)
class Pki:
    """An authority and certificates for localhost that it signed."""

    directory: Path
    authority: Authority
    ca_file: Path

    @property
    def trust(self) -> Trust:
        return Trust.authority(self.ca_file)

    def issue(self, authority: Authority | None = None) -> Identity:
        return (authority or self.authority).issue(x509.DNSName("localhost"))


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    authority = Authority()
    return Pki(tmp_path, authority, authority.write(tmp_path / "ca.pem"))


@pytest.fixture(autouse=True)
def epmd_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port that all nodes of the test use as the EPMD port."""
    port = free_port()
    monkeypatch.setenv("ERL_EPMD_PORT", str(port))
    return port


def named(name: str, **settings: Any) -> Node:
    trust = Trust.first_use(uncertified=["*"])
    return Node(name, **{"cookie": COOKIE, "carriers": [Quic(), Tls()], "trust": trust, **settings})


# -- two quicdist nodes ----------------------------------------------------------------------------


async def test_two_nodes_speak_tls() -> None:
    async with named("one@localhost") as one, named("two@localhost", exports=[exported]) as two:
        big = bytes(range(256)) * 16384
        assert await one.call(two.name, "py", "echo", [big], timeout=PATIENCE) == big
        assert one.peer(two.name).carrier == "tls"
        assert one.peer(two.name).cipher.startswith("TLS_")


async def test_both_prove_who_they_are_by_an_authority(pki: Pki) -> None:
    def node(name: str, identity: Identity) -> Node:
        return named(name, identity=identity, trust=pki.trust)

    stranger = pki.issue(Authority("another"))
    async with node("one@localhost", pki.issue()) as one, node("two@localhost", pki.issue()) as two:
        assert await one.ping(two.name)
        async with node("three@localhost", stranger) as three:
            with pytest.raises(NoConnection, match="issuer certificate"):
                await one.connect(three.name)
        believing = named("four@localhost", identity=stranger, trust=Trust.nothing())
        async with believing as four:
            with pytest.raises(NoConnection):
                await four.connect(one.name)
        bare = named("five@localhost", identity=pki.issue(), trust=pki.trust)
        async with bare as five:
            assert await five.ping(one.name)
        assert one.nodes() == [two.name]


async def test_a_certificate_for_another_host_is_refused(pki: Pki) -> None:
    elsewhere = pki.authority.issue(x509.DNSName("elsewhere.example"))
    async with named("one@localhost", identity=elsewhere, trust=Trust.nothing()) as one:
        dialing = named("two@localhost", identity=pki.issue(), trust=pki.trust)
        async with dialing as two:
            with pytest.raises(NoConnection, match=r"host.*elsewhere\.example") as caught:
                await two.connect(one.name)
            assert caught.value.is_refusal


async def test_who_asks_for_certificates_by_authority_gets_tls_unasked(pki: Pki) -> None:
    def node(name: str) -> Node:
        return Node(name, cookie=COOKIE, identity=pki.issue(), trust=pki.trust)

    async with node("one@localhost") as one, node("two@localhost") as two:
        await one.connect(two.name)
        assert one.peer(two.name).carrier == "tls"


async def test_a_trust_that_tls_over_tcp_cannot_follow_is_refused_at_the_start() -> None:
    with pytest.raises(StartError, match="cannot be asked for certificates by first use"):
        await named("one@localhost", trust=Trust.first_use()).start()


@pytest.mark.parametrize("how", ["authority", "pins"])
def test_what_is_verified_over_tcp_is_said(how: str, pki: Pki) -> None:
    """A dialer's certificate is requested only with an authority."""
    trust = pki.trust if how == "authority" else Trust.pinned({"*": f"sha256:{64 * '0'}"})
    said = Tls().make(Credentials(None, trust, ["127.0.0.1"])).describe()
    assert ("and dialers" in said) == (how == "authority")


async def test_a_node_on_tls_and_one_on_tcp_do_not_meet() -> None:
    async with named("one@localhost") as one, named("two@localhost", carriers=[Tcp()]) as two:
        for here, there in ((one, two), (two, one)):
            with pytest.raises(NoConnection):
                await here.connect(there.name)


async def test_whoever_speaks_no_tls_costs_only_his_connection() -> None:
    port = free_port()
    async with named("one@localhost", carriers=[Tls(port)]) as one, named("two@localhost") as two:
        for words in (b"", b"\0\0\0\1N" * 100, bytes(70_000), b"\x16\3\1\0\5hello"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(words)
            writer.write_eof()
            assert len(await asyncio.wait_for(reader.read(), PATIENCE)) < 100
            writer.close()
        assert await two.ping(one.name)


# -- with stock Erlang ---------------------------------------------------------------------------


@contextmanager
def stock(pki: Pki, port: int, *, server: str = "", client: str) -> Iterator[Beam]:
    """A stock node with TLS distribution and further ssl options for both sides."""
    certificate, key = write(pki.issue(), pki.directory)
    pair = f'{{certfile, "{certificate}"}}, {{keyfile, "{key}"}}, {{cacertfile, "{pki.ca_file}"}}'
    options = pki.directory / "ssl_dist.conf"
    options.write_text(f"[{{server, [{pair}{server}]}}, {{client, [{pair}, {client}]}}].")
    arguments = ("-proto_dist", "inet_tls", "-ssl_dist_optfile", str(options))
    name = "stock@localhost"
    with (
        RealEpmd(port) as epmd,
        named_erl(name, epmd, *arguments, cookie=COOKIE, form="-sname") as erlang,
    ):
        yield Beam(erlang, name)


@pytest.mark.erlang
async def test_a_stock_node_and_ours_dial_each_other(pki: Pki, epmd_port: int) -> None:
    with stock(pki, epmd_port, client="{verify, verify_none}") as beam:
        async with named("py@localhost", exports=[exported]) as node:
            assert await beam.eval("erpc:call('py@localhost', py, add, [1, 2])") == 3
            assert node.peer(beam.name).carrier == "tls"
            assert node.disconnect(beam.name)
            assert await node.call(beam.name, "lists", "sum", [[1, 2]]) == 3
            size = 5_000_000
            big = await node.call(beam.name, "binary", "copy", [b"x", size], timeout=PATIENCE)
            assert big == b"x" * size
            echoed = "byte_size(erpc:call('py@localhost', py, echo, [binary:copy(<<0>>, $n)]))"
            assert await beam.eval(echoed, n=size) == size


@pytest.mark.erlang
async def test_a_stock_node_and_ours_prove_who_they_are(pki: Pki, epmd_port: int) -> None:
    demanding = ", {verify, verify_peer}, {fail_if_no_peer_cert, true}"
    with stock(pki, epmd_port, server=demanding, client="{verify, verify_peer}") as beam:
        ours = named("py@localhost", identity=pki.issue(), trust=pki.trust, exports=[exported])
        async with ours as node:
            assert await beam.eval("erpc:call('py@localhost', py, add, [1, 2])") == 3
            assert node.disconnect(beam.name)
            assert await node.call(beam.name, "erlang", "node") == atom(beam.name)
        stranger = pki.issue(Authority("another"))
        async with named("py@localhost", identity=stranger, trust=Trust.nothing()) as node:
            with pytest.raises(NoConnection):
                await node.connect(beam.name)
            assert await beam.eval("net_adm:ping('py@localhost')") == "pang"


@pytest.mark.erlang
async def test_a_quic_node_reaches_a_stock_one_on_tls(pki: Pki, epmd_port: int) -> None:
    with stock(pki, epmd_port, client="{verify, verify_none}") as beam:
        async with named("0@127.0.0.1", exports=[exported]) as node:
            assert await node.ping(beam.name)
            assert await beam.eval("erpc:call('$py', py, add, [1, 2])", py=node.name) == 3
