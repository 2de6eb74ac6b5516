"""Trust, access and attacks on the path between nodes over QUIC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from quicdist import (
    Access,
    CallError,
    Identity,
    NoConnection,
    Node,
    NodeLimits,
    Table,
    Trust,
    export,
)
from quicdist.carriers.base import Connection, ConnectionHandler
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.trust import Credentials
from quicdist.carriers.trust.authority import issue, make_authority
from quicdist.carriers.trust.identity import pem
from quicdist.cluster.cookie_throttle import FREE, MOST, CookieThrottle
from quicdist.gateway.relay import Relay
from quicdist.protocol.dialects.base import Buffer
from quicdist.protocol.flags import Flag
from tests.node.conftest import COOKIE
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.io

PATIENT = NodeLimits(connect_timeout=20.0)


def node(
    name: str,
    identity: Identity,
    trust: Trust,
    *,
    cookie: str = COOKIE,
    exports: tuple[object, ...] = (),
    access: Access | None = None,
    table: Table | None = None,
) -> Node:
    more = {} if table is None else {"lookups": [table]}
    return Node(
        name,
        cookie=cookie,
        identity=identity,
        trust=trust,
        exports=exports,
        access=access,
        limits=PATIENT,
        **more,  # type: ignore[arg-type]  # as Node takes them
    )


def free_name() -> str:
    return f"{free_port()}@127.0.0.1"


def someone() -> Identity:
    return Identity.ephemeral(["127.0.0.1"])


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return tmp_path / "known_nodes"


async def test_a_node_with_another_key_is_another_node(
    known: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, ours = free_name(), someone()
    trust = Trust.first_use(known)
    async with node("0@127.0.0.1", ours, trust) as one:
        async with node(name, someone(), Trust.first_use(tmp_path / "theirs")):
            assert await one.ping(name)
        async with node(name, someone(), Trust.first_use(tmp_path / "theirs")):
            with pytest.raises(NoConnection, match=f"cert accept {name} sha256:") as caught:
                await one.connect(name)
            await until(lambda: "rejected this node's certificate" in caplog.text)
        assert caught.value.is_refusal
    assert known.read_text().count("\n") == 1


async def test_a_node_that_no_authority_vouches_for_learns_it_by_its_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ca.pem").write_bytes(pem([make_authority("cluster", 1).certificate]))
    trust = Trust.authority(tmp_path / "ca.pem")
    async with (
        node("0@127.0.0.1", someone(), trust) as one,
        node("0@127.0.0.1", someone(), Trust.first_use(tmp_path / "theirs")) as other,
    ):
        with pytest.raises(NoConnection, match="certificate"):
            await one.connect(other.name)
        await until(lambda: "rejected this node's certificate" in caplog.text)


def test_authorities_that_have_changed_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "quicdist.trust")
    former, new = make_authority("former", 1), make_authority("new", 1)
    file = tmp_path / "ca.pem"
    file.write_bytes(pem([former.certificate]))
    verifier = Trust.authority(file).verifier()
    name = free_name()
    verifier.verify_dialed(name, [issue(former, [name], [], 1).certificate])
    file.write_bytes(pem([former.certificate, new.certificate]))
    verifier.verify_dialed(name, [issue(new, [name], [], 1).certificate])
    assert caplog.messages == [f"{file} has changed; trusted from now on: CN=former, CN=new"]


async def test_a_node_that_returns_with_another_key_is_not_let_in(
    known: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = free_name()
    async with node("0@127.0.0.1", someone(), Trust.first_use(known)) as one:
        async with node(name, someone(), Trust.first_use(tmp_path / "1")) as peer:
            assert await peer.ping(one.name)
        async with node(name, someone(), Trust.first_use(tmp_path / "2")) as impostor:
            with pytest.raises(NoConnection, match="does not allow this"):
                await impostor.connect(one.name)
        assert "has changed" in caplog.text


async def test_without_the_cookie_nobody_is_remembered(known: Path, tmp_path: Path) -> None:
    name = free_name()
    async with node("0@127.0.0.1", someone(), Trust.first_use(known)) as one:
        other = node(name, someone(), Trust.first_use(tmp_path / "k"), cookie="another")
        async with other as stranger:
            for here, there in ((one, name), (stranger, one.name)):
                with pytest.raises(NoConnection, match="cookie"):
                    await here.connect(there)
    assert not known.exists()


async def test_a_name_that_is_not_in_the_certificate_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A peer with its own certificate, another node's name, and the right cookie."""
    authority = make_authority("cluster", 1)
    (tmp_path / "ca.pem").write_bytes(pem([authority.certificate]))
    trust = Trust.authority(tmp_path / "ca.pem")
    alice, bob, eve = free_name(), free_name(), free_name()
    async with node(alice, issue(authority, [alice], [], 1), trust) as ours:
        async with node(bob, issue(authority, [bob], [], 1), trust) as friend:
            assert await friend.ping(alice)
        eves = issue(authority, [eve], [], 1)
        async with node(eve, eves, trust) as honest:
            assert await honest.ping(alice)
        async with node(bob, eves, trust) as swapped:
            with pytest.raises(NoConnection, match="does not allow this"):
                await swapped.connect(alice)
            said = f"certificate of this node is for {eve}, not for {bob}: peers will reject it"
            assert said in caplog.text
            with pytest.raises(
                NoConnection, match=f"certificate is not for {bob}: it is for {eve}"
            ):
                await ours.connect(bob)
        elsewhere = issue(authority, [], ["127.0.0.2"], 1)
        async with node(bob, elsewhere, trust) as moved:
            with pytest.raises(NoConnection, match="does not allow this"):
                await moved.connect(alice)
            assert f"the certificate of this node is for 127.0.0.2, not for {bob}" in caplog.text
    assert "does not name the host" in caplog.text


async def test_a_node_that_is_not_pinned(tmp_path: Path) -> None:
    one, two = someone(), someone()
    names = free_name(), free_name()
    pins = Trust.pinned({names[1]: two.fingerprint, "*@127.0.0.9": one.fingerprint})
    async with (
        node(names[0], one, pins) as ours,
        node(names[1], two, Trust.nothing()) as friend,
        node("0@127.0.0.1", two, Trust.nothing()) as same_key_other_name,
        node("0@127.0.0.1", someone(), Trust.nothing()) as stranger,
    ):
        assert await ours.ping(friend.name)
        ours.disconnect(friend.name)
        await until(lambda: not friend.nodes())
        assert await friend.ping(ours.name)
        for other in (same_key_other_name, stranger):
            with pytest.raises(NoConnection):
                await other.connect(ours.name)
            with pytest.raises(NoConnection, match="pinned"):
                await ours.connect(other.name)


# -- attackers on the path ------------------------------------------------------------------------


class InBetween:
    """An attacker on the path without the cookie.

    It terminates QUIC on both sides with its own keys and reads and relays all data. With `strips`,
    it tells each side that the other does not support binding the cookie proof to the TLS session.
    """

    def __init__(self, target: str, *, strips: bool = True) -> None:
        self.target = target
        self.strips = strips
        self.endpoint: Endpoint
        self.read: list[bytes] = []
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def standing(self) -> AsyncIterator[str]:
        """Starts the attacker and returns its address, for the routes of its victims."""
        # A dialect with one stream, whose frames it can relay as they are.
        settings = QuicSettings(Credentials(someone(), Trust.nothing()), alpns=["quicdist/1"])
        self.endpoint = await Endpoint.open("127.0.0.1", 0, settings=settings, accept=self._accept)
        try:
            yield "quic:{}:{}".format(*self.endpoint.local_address)
        finally:
            for task in self._tasks:
                task.cancel()
            await self.endpoint.close()

    def _accept(self, victim: Connection) -> ConnectionHandler:
        relay = Relay(
            self.target,
            peer_name="victim@nowhere",
            peer_address="",
            handshake_timeout=PATIENCE,
            keepalive=PATIENCE,
        )
        self._tasks.append(asyncio.create_task(self._reach(relay)))
        self._strip(victim)
        relay.far.attach(victim)
        return relay.far

    async def _reach(self, relay: Relay) -> None:
        port, _, host = self.target.partition("@")
        connection = await self.endpoint.dial(
            host, int(port), alpns=["quicdist/1"], timeout=PATIENCE
        )
        self._strip(connection)
        send = connection.send_frame

        def listen(parts: Sequence[Buffer], stream: int = 0) -> None:
            self.read += map(bytes, parts)
            send(parts, stream)

        connection.send_frame = listen  # type: ignore[method-assign]
        relay.near.attach(connection)
        await relay.wait_closed()

    def _strip(self, connection: Connection) -> None:
        send = connection.send_handshake

        def stripped(message: bytes) -> None:
            if self.strips and message[:1] == b"N":
                flags = int.from_bytes(message[1:9], "big") & ~Flag.CHANNEL_BINDING.value
                message = b"N" + flags.to_bytes(8, "big") + message[9:]
            send(message)

        connection.send_handshake = stripped  # type: ignore[method-assign]


async def test_somebody_in_between_two_nodes_that_bind_is_found_out() -> None:
    """Works without verification: a cookie proof of one TLS session is invalid in another."""
    name = free_name()
    attacker = InBetween(name, strips=False)
    async with (
        node(name, someone(), Trust.nothing()),
        attacker.standing() as place,
        node("0@127.0.0.1", someone(), Trust.nothing(), table=Table({name: place})) as victim,
    ):
        with pytest.raises(NoConnection):
            await victim.connect(name)
    assert not attacker.read


@pytest.mark.parametrize("how", ["known", "pinned", "authority"])
async def test_somebody_in_between_is_found_out(known: Path, tmp_path: Path, how: str) -> None:
    authority = make_authority("cluster", 1)
    (tmp_path / "ca.pem").write_bytes(pem([authority.certificate]))
    name, theirs = free_name(), issue(authority, [], ["127.0.0.1"], 1)
    known.write_text(f"{name} {theirs.fingerprint}\n")
    trust = {
        "known": Trust.first_use(known),
        "pinned": Trust.pinned({name: theirs.fingerprint}),
        "authority": Trust.authority(tmp_path / "ca.pem"),
    }[how]
    attacker = InBetween(name)
    async with (
        node(name, theirs, Trust.nothing()),
        attacker.standing() as place,
        node("0@127.0.0.1", someone(), trust, table=Table({name: place})) as victim,
    ):
        with pytest.raises(NoConnection):
            await victim.connect(name)
    assert not attacker.read


async def test_somebody_in_between_from_the_first_meeting_on_is_seen_when_he_leaves(
    known: Path, tmp_path: Path
) -> None:
    """The limit of trust on first use: the attacker's key is recorded."""
    name, theirs, ours = free_name(), someone(), someone()
    attacker = InBetween(name)
    async with (
        node(name, theirs, Trust.first_use(tmp_path / "theirs")) as target,
        target.mailbox("box") as box,
    ):
        async with attacker.standing() as place:
            for _ in range(2):
                table = Table({name: place})
                async with node("0@127.0.0.1", ours, Trust.first_use(known), table=table) as victim:
                    await victim.send(("box", name), "confidential")
                    assert await box.receive(timeout=PATIENCE) == b"confidential"
        assert any(b"confidential" in frame for frame in attacker.read)
        async with node("0@127.0.0.1", ours, Trust.first_use(known)) as victim:
            with pytest.raises(NoConnection, match="has changed"):
                await victim.connect(name)


async def test_who_believes_everybody_is_warned(
    known: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for trust, is_warned in ((Trust.first_use(known), False), (Trust.nothing(), True)):
        caplog.clear()
        async with Node("0@127.0.0.1", cookie="c", identity=Identity.ephemeral(), trust=trust):
            warned = [record for record in caplog.records if record.levelname == "WARNING"]
        assert bool(warned) is is_warned
    assert "no certificate is verified: only the cookie" in caplog.text


async def test_somebody_in_between_reads_all_where_nothing_is_verified() -> None:
    """The meaning of `none`, and evidence that the attack of these tests works."""
    name = free_name()
    attacker = InBetween(name)
    async with (
        node(name, someone(), Trust.nothing()) as target,
        attacker.standing() as place,
        node("0@127.0.0.1", someone(), Trust.nothing(), table=Table({name: place})) as victim,
        target.mailbox("box") as box,
    ):
        await victim.send(("box", name), "confidential")
        assert await box.receive(timeout=PATIENCE) == b"confidential"
    assert any(b"confidential" in frame for frame in attacker.read)


# -- allow lists --------------------------------------------------------------------------------


@export(module="calc")
def add(a: int, b: int) -> int:
    return a + b


@export(module="calc")
def double(a: int) -> int:
    return 2 * a


@export(module="calc")
def drop() -> None:
    raise AssertionError("not to be called")


async def test_who_may_connect_and_be_dialed() -> None:
    friends, strangers, ours = free_name(), free_name(), free_name()
    access = Access(accept=[friends], dial=["*@127.0.0.2", friends])
    same = someone()
    trust = Trust.pinned({"*": same.fingerprint})
    async with (
        node(ours, same, trust, access=access) as one,
        node(friends, same, trust) as friend,
        node(strangers, same, trust) as stranger,
    ):
        with pytest.raises(NoConnection, match="does not allow this"):
            await stranger.connect(ours)
        with pytest.raises(NoConnection, match="do not allow dialing"):
            await one.connect(strangers)
        assert await friend.ping(ours)
        one.disconnect(friends)
        await until(lambda: not friend.nodes())
        assert await one.ping(friends)


async def test_what_may_be_called() -> None:
    """Tries each way: erpc, rpc, a call to the module's name, and spawn."""
    friends, strangers, ours = free_name(), free_name(), free_name()
    access = Access(calls={"*": ["calc:a*"], friends: ["calc:double"], "nobody@*": ["*"]})
    same = someone()
    trust = Trust.pinned({"*": same.fingerprint})
    async with (
        node(ours, same, trust, exports=(add, double, drop), access=access),
        node(friends, same, trust) as friend,
        node(strangers, same, trust) as stranger,
    ):
        assert await friend.call(ours, "calc", "double", [2]) == 4
        with pytest.raises(CallError, match="undef"):
            await stranger.call(ours, "calc", "double", [2])
        for peer in (friend, stranger):
            assert await peer.call(ours, "calc", "add", [1, 2]) == 3
            with pytest.raises(CallError, match="undef"):
                await peer.call(ours, "calc", "drop")
            with pytest.raises(CallError, match="undef"):
                await peer.rpc(ours, "calc", "drop")
            with pytest.raises(CallError, match="undef"):
                await peer.gen_call(("calc", ours), "drop")
            async with peer.mailbox() as me:
                await me.spawn_remote(ours, "calc", "drop", [], monitor=True)
                down = await me.receive(timeout=PATIENCE)
                assert "undef" in str(down)


# -- guessing -----------------------------------------------------------------------------------


def test_guesses_wait_ever_longer_and_are_forgotten() -> None:
    guesses = CookieThrottle()
    delays = []
    for _ in range(FREE + 10):
        delays.append(guesses.delay("10.0.0.1", 0.0))
        guesses.failed("10.0.0.1", 0.0)
    assert delays[:FREE] == [0.0] * FREE
    assert delays == sorted(delays)
    assert delays[-1] == MOST
    assert guesses.delay("10.0.0.2", 0.0) == 0.0
    assert guesses.delay("10.0.0.1", 3600.0) == 0.0


def test_a_network_of_ipv6_is_one_address_and_memory_is_bounded() -> None:
    guesses = CookieThrottle()
    for number in range(FREE + 1):
        guesses.failed(f"2001:db8::{number:x}", 0.0)
    assert guesses.delay("2001:db8::ffff", 0.0) > 0.0
    assert guesses.delay("2001:db8:0:1::1", 0.0) > 0.0  # one owner may have a whole /48
    assert guesses.delay("2001:db8:1::1", 0.0) == 0.0
    for number in range(10_000):
        guesses.failed(f"10.1.{number // 256}.{number % 256}", 1.0)
    assert len(guesses._failures) == 4096
    assert guesses.delay("2001:db8::ffff", 1.0) == 0.0


async def test_who_guesses_locks_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    same = someone()
    trust = Trust.pinned({"*": same.fingerprint})
    async with node("0@127.0.0.1", same, trust) as ours:
        for number in range(FREE + 2):
            async with node("0@127.0.0.1", same, trust, cookie=f"guess {number}") as guesser:
                with pytest.raises(NoConnection):
                    await guesser.connect(ours.name)
        life = ours._running
        now = asyncio.get_running_loop().time()
        assert life.connections._cookie_throttle.delay("127.0.0.1", now) > 0.0
        async with node("0@127.0.0.1", same, trust) as honest:
            assert await honest.ping(ours.name, timeout=PATIENCE)
