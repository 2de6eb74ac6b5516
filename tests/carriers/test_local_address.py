"""Peers that restart, and networks that change under a connection."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from quicdist.carriers.base import CloseKind
from quicdist.carriers.quic.connection import QuicConnection
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.stateless_reset import StatelessResetTokens, token_in
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.token_bucket import TokenBucket
from quicdist.carriers.trust import Credentials, Identity, Trust, files
from tests.carriers.owners import CREDENTIALS, Node, Owner, node, settings
from tests.support.engines import needs_native
from tests.support.waiting import PATIENCE, settled, until

pytestmark = pytest.mark.io

SECRET = bytes(32)

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="127.0.0.2 is Linux's")


def vanish(one: Node) -> int:
    """Removes an endpoint without a close, as after SIGKILL, and returns its port."""
    port = one.port
    endpoint = one.endpoint
    for connection in endpoint.connections:
        endpoint.forget(connection)
    endpoint._release_socket(endpoint._udp)
    return port


@asynccontextmanager
async def at(port: int, credentials: Credentials = CREDENTIALS) -> AsyncIterator[Node]:
    """A node on a given loopback port."""
    made: list[Node] = []

    def accept(connection: QuicConnection) -> Owner:
        made[0].accepted.append(Owner(connection))
        made[0].arrived.set()
        return made[0].accepted[-1]

    endpoint = await Endpoint.open(
        "127.0.0.1",
        port,
        settings=replace(settings(), credentials=credentials),
        accept=accept,  # type: ignore[arg-type]  # a QuicConnection is what comes
    )
    made.append(Node(endpoint))
    try:
        yield made[0]
    finally:
        await endpoint.close()


# -- stateless resets ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "dialer", "listener"),
    [
        ("listener", "aioquic", "aioquic"),
        ("dialer", "aioquic", "aioquic"),
        *(
            pytest.param(*case, marks=needs_native)
            for case in (
                ("listener", "native", "aioquic"),
                ("listener", "aioquic", "native"),
                ("listener", "native", "native"),
                ("dialer", "native", "native"),
                ("dialer", "aioquic", "native"),
                ("dialer", "native", "aioquic"),
            )
        ),
    ],
)
async def test_a_restart_is_seen_with_the_first_datagram(
    who: str, dialer: str, listener: str
) -> None:
    async with node(engine=dialer) as a, node(engine=listener) as b:
        here, there = await a.connect(b)
        # Both know the tokens of the current ids after traffic with the new ids.
        there.connection.send_frame((b"x",))
        await here.until(lambda: here.frames)
        gone, left = (b, here) if who == "listener" else (a, there)
        async with at(vanish(gone)) as restarted:
            left.connection.ping()
            await left.until(lambda: left.lost)
            assert left.lost[0].kind is CloseKind.PEER
            assert "restarted" in left.lost[0].text
            assert restarted.endpoint.rejected[RejectReason.RESET] >= 1
            again, _ = await (a if who == "listener" else b).connect(restarted)
            again.connection.send_frame((b"and on it goes",))


async def test_a_reset_from_elsewhere_or_with_another_token_ends_nothing() -> None:
    async with node(engine="aioquic") as a, node() as b:
        here, there = await a.connect(b)
        connection = a.endpoint.connections[0]
        token = connection._reset_token
        assert len(token) == 16
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.connect(("127.0.0.1", a.port))
            stranger.send(b"\x41" + bytes(20) + token)
        b.endpoint._udp.send(b"\x41" + bytes(36), (("127.0.0.1", a.port), None))
        await until(lambda: a.endpoint.rejected[RejectReason.RESET] >= 2)
        here.connection.send_frame((b"unmoved",))
        await there.until(lambda: there.frames)
        # The same datagram from the peer's address.
        b.endpoint._udp.send(b"\x41" + bytes(20) + token, (("127.0.0.1", a.port), None))
        await here.until(lambda: here.lost)


async def test_two_that_know_nothing_of_each_other_fall_silent() -> None:
    async with node() as a, node() as b:
        a.endpoint._udp.send(b"\x41" + bytes(40), (("127.0.0.1", b.port), None))
        ends = (a.endpoint.rejected, b.endpoint.rejected)
        await until(lambda: any(refusals[RejectReason.RESET] for refusals in ends))
        resets = await settled(lambda: sum(refusals[RejectReason.RESET] for refusals in ends))
        assert 1 <= resets <= 20


def test_tokens_differ_by_secret_port_and_id() -> None:
    one = StatelessResetTokens(SECRET, 4433)
    assert one.of(b"12345678") == StatelessResetTokens(SECRET, 4433).of(b"12345678")
    assert one.of(b"12345678") != StatelessResetTokens(SECRET, 4434).of(b"12345678")
    assert one.of(b"12345678") != StatelessResetTokens(b"another", 4433).of(b"12345678")
    assert one.of(b"12345678") != one.of(b"12345679")


def test_the_secret_of_tokens_outlives_certificates() -> None:
    """Otherwise a restart with a new key is only detected after the idle timeout."""
    before, after = (
        Credentials(Identity.ephemeral(["127.0.0.1"]), Trust.nothing()).reset_secret
        for _ in range(2)
    )
    assert before == after
    assert len(before) == 32
    path = files.state_directory() / "reset-secret"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"cut")
    assert len(Credentials(None, Trust.nothing(), ["127.0.0.1"]).reset_secret) == 32


def test_where_no_secret_can_be_kept_it_is_derived_from_the_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QUICDIST_STATE_DIR", str(tmp_path / "file" / "state"))
    one, other = (Identity.ephemeral(["127.0.0.1"]) for _ in range(2))
    secrets = [Credentials(each, Trust.nothing()).reset_secret for each in (one, one, other)]
    assert secrets[0] == secrets[1] != secrets[2]


async def test_a_restart_with_another_certificate_is_seen_with_the_first_datagram() -> None:
    async with node() as a, node() as b:
        here, there = await a.connect(b)
        there.connection.send_frame((b"x",))
        await here.until(lambda: here.frames)
        address = vanish(b)
        other = Credentials(Identity.ephemeral(["127.0.0.1"]), Trust.nothing())
        async with at(address, credentials=other):
            here.connection.ping()
            await here.until(lambda: here.lost)
            assert "restarted" in here.lost[0].text


@pytest.mark.parametrize("size", [1, 21, 22, 43, 44, 1200])
def test_a_reset_is_shorter_than_what_it_answers(size: int) -> None:
    tokens = StatelessResetTokens(SECRET, 4433)
    answer = tokens.answer(bytes(size), b"12345678")
    if size <= 21:
        assert answer is None
    else:
        assert answer is not None
        assert 21 <= len(answer) <= min(size - 1, 43)
        assert answer[0] & 0xC0 == 0x40
        assert token_in(answer) == tokens.of(b"12345678")


def test_resets_are_rationed() -> None:
    allowance = TokenBucket(per_second=5)
    assert [allowance.take(100.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert allowance.take(100.25)
    assert not allowance.take(100.25)
    assert [allowance.take(200.0) for _ in range(6)] == [True] * 5 + [False]


# -- moving -------------------------------------------------------------------------------------


async def talk(one: Owner, other: Owner, text: bytes) -> None:
    one.connection.send_frame((text,))
    await other.until(lambda: text in other.frames)
    other.connection.send_frame((text,))
    await one.until(lambda: text in one.frames)


async def test_a_new_socket_at_the_same_address_ends_nothing() -> None:
    async with node(engine="aioquic") as a, node() as b:
        dialed, _there = await a.connect(b)
        other, accepted = await b.connect(a)
        ids = [connection._engine._quic._peer_cid.cid for connection in a.endpoint.connections]  # type: ignore[attr-defined]  # aioquic's
        old = a.endpoint._udp.fileno(), a.endpoint.local_address
        a.endpoint.rebind()
        assert a.endpoint.local_address == old[1]
        await talk(dialed, b.accepted[0], b"dialed")
        await talk(accepted, other, b"accepted")
        assert not dialed.lost
        assert not accepted.lost
        now = [connection._engine._quic._peer_cid.cid for connection in a.endpoint.connections]  # type: ignore[attr-defined]  # aioquic's
        assert sum(x != y for x, y in zip(ids, now, strict=True)) == 1


async def test_what_we_dialed_moves_along_and_what_we_accepted_ends() -> None:
    async with node() as a, node() as b:
        dialed, there = await a.connect(b)
        other, accepted = await b.connect(a)
        old = a.port
        a.endpoint.rebind(port=0)
        assert a.port != old
        await accepted.until(lambda: accepted.lost)
        assert "local address has changed" in accepted.lost[0].text
        await talk(dialed, there, b"from the new port")
        assert there.connection.peer_address == ("127.0.0.1", a.port)
        assert not dialed.lost
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", old))
        # The dialer finds the old port unused, and gets a reset if the port is in use again.
        other.connection.close("gives up")
        await b.connect(a)


async def test_moving_in_mid_transfer_again_and_again() -> None:
    async with node() as a, node() as b:
        here, there = await a.connect(b)
        sent = [b"%d" % i + bytes(4000) for i in range(2000)]

        async def move() -> None:
            for _ in range(12):
                await asyncio.sleep(0.05)
                a.endpoint.rebind(port=0)

        moving = asyncio.ensure_future(move())
        for i, frame in enumerate(sent):
            await here.send(frame)
            if i % 50 == 0:
                await asyncio.sleep(0.01)
        await moving
        await there.until(lambda: len(there.frames) == len(sent))
        assert there.frames == sent
        assert not here.lost
        assert not there.lost


@on_linux
async def test_an_address_that_is_gone_is_left_by_itself_and_returned_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = {"127.0.0.7"}

    def is_assigned(host: str, family: int) -> bool:
        return host not in gone

    module = "quicdist.carriers.quic.endpoint"
    async with node("127.0.0.7") as a, node() as b:
        here, there = await a.connect(b)
        monkeypatch.setattr(f"{module}.is_assigned", is_assigned)
        monkeypatch.setattr(f"{module}._LOOK_AGAIN", 0.05)
        real_bind = type(a.endpoint._udp).bind

        def bind(address: tuple[str, int], family: int, size: int) -> object:
            if address[0] in gone:
                raise OSError(99, "Cannot assign requested address")
            return real_bind(address, family, size)

        monkeypatch.setattr(f"{module}.UdpSocket.bind", bind)
        home = a.endpoint.local_address
        a.endpoint._doubt_address()
        await until(lambda: a.endpoint.local_address != home)
        await talk(here, there, b"from elsewhere")
        assert there.connection.peer_address == ("127.0.0.1", home[1])
        gone.clear()
        await until(lambda: a.endpoint.local_address == home)
        await talk(here, there, b"at home")
        assert there.connection.peer_address == home
        assert not here.lost


async def test_no_socket_to_be_had_is_said_and_leaves_the_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with node() as a, node() as b:
        here, there = await a.connect(b)
        with pytest.raises(OSError, match="assign"):
            a.endpoint.rebind("192.0.2.1", b.port)
        await talk(here, there, b"still here")
        a.endpoint.rebind("127.0.0.1", 0)
        await talk(here, there, b"and now there")
        await asyncio.wait_for(a.endpoint.close(), PATIENCE)
        a.endpoint.rebind()  # no effect
