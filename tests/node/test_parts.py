"""Unit tests of the parts of a node."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist import (
    CookieError,
    ExportError,
    Identity,
    MailboxLimits,
    Node,
    NodeError,
    NodeLimits,
    NodeNameError,
    Trust,
    export,
)
from quicdist.cluster.cookie import find_cookie, read_cookies
from quicdist.cluster.names import Address, NodeName, parse_listen
from quicdist.cluster.outbox import Outbox, Prefixes
from quicdist.etf import Atom, ImproperList, Reference, encode
from quicdist.kernel.exports import Exports
from quicdist.protocol.channel import Head, OutgoingMessage
from quicdist.protocol.dialects.base import Buffer
from quicdist.protocol.header import OutgoingAtomCache
from quicdist.runtime.calls import alias_of
from quicdist.runtime.exit_reasons import error_reason, exit_reason, stack_of
from quicdist.runtime.identifiers import Identifiers, new_creation
from tests.node import exported
from tests.support.waiting import PATIENCE

# -- names, cookies, ids -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "host", "port"),
    [
        ("4433@127.0.0.1", "127.0.0.1", 4433),
        ("0@::1", "::1", 0),
        ("65535@node-1.example.org", "node-1.example.org", 65535),
        ("4433@my_service.app_net", "my_service.app_net", 4433),
    ],
)
def test_node_names(name: str, host: str, port: int) -> None:
    assert Address.parse(name) == Address(host, port)
    assert Address.parse(name).name() == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "4433",
        "@127.0.0.1",
        "x@127.0.0.1",
        "65536@127.0.0.1",
        "1@",
        "1@127.0.0.300",
        "1@a@b",
        "-1@127.0.0.1",
        "٣@127.0.0.1",
        "1@-x",
    ],
)
def test_no_node_names(name: str) -> None:
    with pytest.raises(NodeNameError, match="as in"):
        Address.parse(name)


@pytest.mark.parametrize(
    ("name", "alive", "host", "address"),
    [
        ("4433@10.0.0.7", "4433", "10.0.0.7", Address("10.0.0.7", 4433)),
        ("py@host-1", "py", "host-1", None),
        ("4433b@10.0.0.7", "4433b", "10.0.0.7", None),
    ],
)
def test_names_that_a_node_may_have(
    name: str, alive: str, host: str, address: Address | None
) -> None:
    for read in (NodeName.own(name), NodeName.parse(name)):
        assert (read.alive, read.host, read.address, str(read)) == (alive, host, address, name)


@pytest.mark.parametrize(
    "name", ["", "py", "@h", "py@", "a b@h", "a@b@h", "65536@h", "٣@h", "é@h", "py@h:1", "py@-h"]
)
def test_names_that_none_may_have(name: str) -> None:
    with pytest.raises(NodeNameError, match="as in"):
        NodeName.own(name)


def test_an_address_in_brackets_is_told_from_a_name_for_epmd() -> None:
    assert NodeName.parse("4433@::1").address == Address("::1", 4433)
    with pytest.raises(NodeNameError, match="expected no brackets, as in '4433@::1'"):
        NodeName.parse("4433@[::1]")


@pytest.mark.parametrize("read", [NodeName.parse, NodeName.own, Address.parse])
def test_an_invalid_name_is_quoted_as_it_was_written(read: Callable[[str], object]) -> None:
    with pytest.raises(NodeNameError, match=r"^invalid node name 'bad'"):
        read(Atom("bad"))


def test_where_to_listen() -> None:
    assert parse_listen("0.0.0.0:5") == ("0.0.0.0", 5)
    assert parse_listen("[::]:5") == ("::", 5)
    assert parse_listen(("::", 5)) == ("::", 5)
    for text in ("5", "0.0.0.0", "x y:5", "0.0.0.0:x", "0.0.0.0:99999"):
        with pytest.raises(NodeNameError, match="ip:port"):
            parse_listen(text)


def test_cookies(tmp_path: Path) -> None:
    assert find_cookie("given", tmp_path) == "given"
    with pytest.raises(CookieError, match="do not exist"):
        find_cookie(None, tmp_path)
    second = tmp_path / ".config" / "erlang" / ".erlang.cookie"
    if sys.platform == "darwin":
        second = tmp_path / "Library" / "Application Support" / "erlang" / ".erlang.cookie"
    second.parent.mkdir(parents=True)
    write_cookie(second, b"DEF")
    assert find_cookie(None, tmp_path) == "DEF"
    write_cookie(tmp_path / ".erlang.cookie", b"ABC\n")
    assert find_cookie(None, tmp_path) == "ABC"
    with pytest.raises(CookieError, match="latin-1"):
        find_cookie("☃")
    with pytest.raises(CookieError, match="255"):
        find_cookie("x" * 256)


def write_cookie(file: Path, content: bytes, mode: int = 0o400) -> Path:
    file.unlink(missing_ok=True)
    file.write_bytes(content)
    file.chmod(mode)
    return file


COOKIE_FILES: list[tuple[bytes, int, str | None]] = [
    (b"abc", 0o600, "abc"),
    (b"a b\n", 0o400, "a b"),
    (b" abc  \n", 0o400, " abc  "),
    (b"abc\r\n \n", 0o400, "abc"),
    (b"a\tb\n", 0o400, None),
    (b"abc\t\n", 0o400, None),
    (b"abc\ndef\n", 0o400, None),
    (b"\xff\xfe", 0o400, None),
    (b"\n", 0o400, None),
    (b"", 0o400, None),
    (b"abc", 0o440, None),
    (b"abc", 0o404, None),
]
"""Cookies as `erl` of OTP 25 reads them, or rejects them."""


@pytest.mark.parametrize(("content", "mode", "cookie"), COOKIE_FILES)
def test_cookie_files(tmp_path: Path, content: bytes, mode: int, cookie: str | None) -> None:
    write_cookie(tmp_path / ".erlang.cookie", content, mode)
    if cookie is None:
        with pytest.raises(CookieError):
            find_cookie(None, tmp_path)
    else:
        assert find_cookie(None, tmp_path) == cookie


@pytest.mark.erlang
@pytest.mark.parametrize(("content", "mode", "cookie"), COOKIE_FILES)
def test_erlang_reads_cookie_files_alike(
    tmp_path: Path, content: bytes, mode: int, cookie: str | None
) -> None:
    write_cookie(tmp_path / ".erlang.cookie", content, mode)
    asked = subprocess.run(
        ["erl", "-noshell", "-name", "cookie@127.0.0.1", "-start_epmd", "false", "-dist_listen",
         "false", "-eval", 'io:put_chars(["<", atom_to_list(erlang:get_cookie()), ">"]), halt().'],
        env={**os.environ, "HOME": str(tmp_path), "ERL_CRASH_DUMP_BYTES": "0"},
        capture_output=True,
        timeout=PATIENCE,
    )  # fmt: skip
    assert (f"<{cookie}>".encode() in asked.stdout) is (cookie is not None)


def test_without_a_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("QUICDIST_STATE_DIR")
    Node("0@127.0.0.1", cookie="x", identity=Identity.ephemeral(), trust=Trust.nothing())
    with pytest.raises(CookieError, match="no home directory"):
        find_cookie(None)


def test_pids_and_references() -> None:
    name = Atom("1@127.0.0.1")
    numbers = iter([(1 << 82) - 1, 0, 1 << 18])
    identifiers = Identifiers(name, 7, lambda bits: next(numbers))
    used = {identifiers.pid(()) for _ in range(3)}
    assert sorted(pid.id for pid in used) == [0, 1, 2]
    identifiers._next_pid = (1 << 28) - 1
    last = identifiers.pid(used)
    assert (last.id, last.serial, last.creation) == ((1 << 15) - 1, (1 << 13) - 1, 7)
    assert identifiers.pid(used).id == 3, "pids in use are not handed out again"
    references = [identifiers.reference() for _ in range(3)]
    assert len(set(references)) == 3
    assert references[0].ids == ((1 << 18) - 1, (1 << 32) - 1, (1 << 32) - 1)
    assert references[1].ids == (0, 0, 0)
    assert references[2].ids == (0, 1, 0)
    unguessable = Identifiers(name, 7)
    words = zip(*(unguessable.reference().ids for _ in range(64)), strict=True)
    assert all(len(set(word)) > 32 for word in words), "one reference tells nothing of the next"
    for _ in range(100):
        assert 3 < new_creation(random.Random(_)) < 1 << 32


def test_limits_that_make_no_sense() -> None:
    with pytest.raises(NodeError, match="out of order"):
        MailboxLimits(high=1, low=2)
    with pytest.raises(NodeError, match="out of order"):
        NodeLimits(send_high=1, send_low=2)
    with pytest.raises(NodeError, match="net_ticktime"):
        NodeLimits(net_ticktime=0)


# -- outbox --------------------------------------------------------------------------------------


class Pipe:
    """A sink with room for a number of bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.frames: list[bytes] = []
        self.is_quiet = False

    @property
    def is_writable(self) -> bool:
        return self.room > 0

    def send_frame(self, parts: Sequence[Buffer], stream: int = 0) -> None:
        frame = b"".join(parts)
        self.room -= len(frame)
        self.frames.append(frame)

    def send_framed(self, frames: Sequence[bytes], stream: int = 0) -> None:
        for frame in frames:
            self.send_frame((frame[4:],), stream)

    def send_at_once(self, frame: bytes, stream: int = 0) -> bool:
        if not self.is_quiet:
            return False
        self.is_quiet = False
        self.send_frame((frame[4:],), stream)
        return True


def message(data: bytes) -> OutgoingMessage:
    return OutgoingMessage(data, (), (), len(data))


class Fours:
    """Splits messages into frames of four bytes."""

    def frame(self, message: OutgoingMessage, stream: int = 0) -> bytes | None:
        return message.control if message.size <= 4 else None

    def frames(self, message: OutgoingMessage, stream: int = 0) -> Iterator[tuple[bytes, ...]]:
        for start in range(0, len(message.control), 4):
            yield (message.control[start : start + 4],)

    def unframed(self, head: Head, prefixes: Prefixes, frame: bytes) -> OutgoingMessage:
        raise NotImplementedError


def outbox(pipe: Pipe) -> Outbox:
    return Outbox(pipe, Fours(), high=100, low=50)


def test_senders_take_turns() -> None:
    pipe = Pipe(0)
    box = outbox(pipe)
    box.put("a", message(b"aaaaAAAAaaaa"))
    box.put("a", message(b"2222"))
    box.put("b", message(b"bbbbBBBB"))
    assert (box.queued, box.is_empty) == (24, False)
    pipe.room = 1000
    box.feed()
    assert pipe.frames == [b"aaaa", b"bbbb", b"AAAA", b"BBBB", b"aaaa", b"2222"]
    assert (box.queued, box.is_empty) == (0, True)
    box.put("a", message(b"1234"))
    assert pipe.frames[-1] == b"1234"


def test_small_messages_do_not_wait_for_the_bulk_of_others() -> None:
    pipe = Pipe(0)
    box = outbox(pipe)
    box.put("bulk", message(bytes(100)))
    box.put("small", message(b"1111"))
    box.put("small", message(b"2222"))
    assert pipe.frames == [b"1111", b"2222"]
    box.put("small", message(b"largeLARGE"))
    box.put("small", message(b"3333"))
    assert pipe.frames == [b"1111", b"2222"]  # the order of a sender holds


async def test_the_first_frame_after_a_pause_waits_for_nothing() -> None:
    pipe = Pipe(1000)
    box = outbox(pipe)
    head = Head(object(), b"", None, (), 0, OutgoingAtomCache())
    sent = [b"%d" % number for number in range(6)]
    for some in (sent[:1], sent[1:]):
        pipe.is_quiet = True
        for each in some:
            box.put_frame("a", head, bytes(4) + each)
        assert pipe.frames[-1:] == some[:2][-1:]  # the others of this iteration leave together
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert pipe.frames == sent
    assert (box.frames_sent, box.queued, box.is_empty) == (6, 0, True)


def test_what_passes_a_full_carrier_is_bounded_until_it_is_writable_again() -> None:
    pipe = Pipe(0)
    box = outbox(pipe)
    for number in range(5000):
        box.put(number, message(b"1234"))
    passed = len(pipe.frames)
    assert 4 * passed == 16 * 1024
    assert box.queued == 4 * (5000 - passed)
    pipe.room = 4
    box.feed()
    box.put("later", message(b"5678"))
    assert pipe.frames[-1] == b"5678"
    assert len(pipe.frames) == passed + 2


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 30)), max_size=30),
    st.lists(st.integers(1, 40), max_size=60),
)
def test_each_sender_s_bytes_leave_in_order(puts: list[tuple[str, int]], rooms: list[int]) -> None:
    pipe = Pipe(0)
    box = outbox(pipe)
    sent: dict[str, bytes] = {}
    todo = deque(rooms)
    for number, (sender, size) in enumerate(puts):
        data = (sender.encode() + bytes([number])) * size
        sent[sender] = sent.get(sender, b"") + data
        box.put(sender, message(data))
        if todo and number % 2:
            pipe.room = todo.popleft()
            box.feed()
    while not box.is_empty:
        pipe.room = todo.popleft() if todo else 1000
        box.feed()
    assert box.queued == 0
    got: dict[str, bytes] = {}
    for frame in pipe.frames:
        owner = next(s for s in "abc" if s.encode() in frame)
        got[owner] = got.get(owner, b"") + frame
    assert got == sent


async def test_a_sender_waits_for_space() -> None:
    pipe = Pipe(0)
    box = outbox(pipe)
    await box.space()
    box.put("a", message(bytes(101)))
    waits = [asyncio.create_task(box.space()) for _ in range(3)]
    await asyncio.sleep(0)
    waits[0].cancel()
    pipe.room = 40
    box.feed()
    await asyncio.sleep(0)
    assert not waits[1].done()
    pipe.room = 40
    box.feed()
    await asyncio.gather(*waits[1:])
    box.put("a", message(bytes(101)))
    waiting = asyncio.create_task(box.space())
    await asyncio.sleep(0)
    box.fail(lambda: NodeError("gone"))
    with pytest.raises(NodeError, match="gone"):
        await waiting
    with pytest.raises(NodeError, match="gone"):
        await box.space()
    box.put("a", message(b"x"))
    assert box.queued == 0


async def test_who_waits_for_the_end_of_the_backlog_is_woken_by_it() -> None:
    pipe = Pipe(0)
    box = outbox(pipe)
    await box.drained()
    box.put("a", message(bytes(8)))
    waits = [asyncio.create_task(box.drained()) for _ in range(2)]
    pipe.room = 4
    box.feed()
    await asyncio.sleep(0)
    assert not any(each.done() for each in waits)
    pipe.room = 100
    box.feed()
    await asyncio.gather(*waits)
    assert box.is_empty


async def test_the_end_of_a_connection_ends_the_wait_for_its_backlog() -> None:
    box = outbox(Pipe(0))
    box.put("a", message(bytes(8)))
    waiting = asyncio.create_task(box.drained())
    await asyncio.sleep(0)
    box.fail(lambda: NodeError("gone"))
    await waiting


def test_nobody_waits_for_the_backlog_of_others() -> None:
    pipe = Pipe(0)
    box = outbox(pipe)
    box.put("small", message(bytes(5)))
    assert not box.must_wait("small")
    box.put("bulk", message(bytes(101)))
    assert not box.must_wait("small")
    assert not box.must_wait("nobody")
    for _ in range(16):
        box.put("small", message(b"x"))
    assert box.must_wait("small")
    box.put("large", message(bytes(16 * 1024)))
    assert box.must_wait("large")
    pipe.room = 1
    box.feed()
    pipe.room = 4
    box.feed()
    assert box.must_wait("bulk")


# -- exports -------------------------------------------------------------------------------------


def test_exports_are_what_is_marked() -> None:
    exports = Exports([exported], 1)
    assert exports.modules == ["py"]
    py = Atom("py")
    for name, arity, found in (
        ("add", 2, True),
        ("add", 1, False),
        ("optional", 1, True),
        ("optional", 2, True),
        ("optional", 3, False),
        ("explode", 1, False),
        ("boom", 1, True),
        ("hidden", 0, False),
    ):
        assert (exports.find(py, Atom(name), arity) is not None) is found
    assert exports.find(b"py", Atom("add"), 2) is None
    assert Exports([exported.add, exported.add], 1).modules == ["py"]


def test_methods_are_exported_with_their_object() -> None:
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        @export(module="Elixir.Counter")
        def up(self, by: int) -> int:
            self.count += by
            return self.count

    found = Exports([Counter()], 1).find(Atom("Elixir.Counter"), Atom("up"), 1)
    assert found is not None
    assert found.function(2) == 2
    assert found.function(3) == 5


def test_what_cannot_be_exported() -> None:
    @export(module="py", name="add")
    def other(a: int, b: int) -> int:
        return 0

    @export(module="py", name="add")
    def another_arity(a: int) -> int:
        return 0

    @export
    def keyword(*, needed: int) -> int:
        return needed

    with pytest.raises(ExportError, match="not marked"):
        Exports([exported.hidden], 1)
    with pytest.raises(ExportError, match="nothing in"):
        Exports([types], 1)
    with pytest.raises(ExportError, match="exported twice"):
        Exports([exported.add, other], 1)
    with pytest.raises(ExportError, match="keyword-only"):
        Exports([keyword], 1)
    assert Exports([exported.add, another_arity], 1).modules == ["py"]
    assert Exports([other], 1).modules == ["py"]


# -- reasons -------------------------------------------------------------------------------------


def raised() -> ValueError:
    try:
        raise ValueError("no ☃")
    except ValueError as error:
        return error


def test_reasons() -> None:
    error = raised()
    reason = error_reason(error)
    assert reason[:3] == ("python_error", "ValueError", "no ☃".encode())
    assert reason[3].endswith("ValueError: no ☃\n".encode())
    module, function, arity, place = stack_of(error)[0]
    assert (module, function, arity) == (__name__, "raised", 0)
    assert place[1][0] == "line"
    encode(exit_reason(error))
    assert exit_reason(None) == "normal"
    assert exit_reason(asyncio.CancelledError()) == "cancelled"
    assert exit_reason(KeyboardInterrupt()) == "shutdown"
    long = error_reason(ValueError("x" * 100_000))
    assert len(long[2]) < 20_000
    assert b"left out" in long[2]


def test_an_alias_in_a_tag() -> None:
    reference = Reference(Atom("a@b"), (1, 2, 3), 4)
    alias = ImproperList((Atom("alias"),), reference)
    assert alias_of(alias) == reference
    assert alias_of([alias, 1]) == reference
    assert alias_of(ImproperList((alias,), 1)) == reference
    for tag in (reference, 1, [], [1], ImproperList((Atom("x"),), reference), ()):
        assert alias_of(tag) is None


def test_a_credential_of_systemd_is_not_reported_as_exposed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask of its access list looks like the permissions of a group."""
    path = write_cookie(tmp_path / "cookie", b"ABC\n", 0o440)
    assert read_cookies(path) == ("ABC",)
    assert [record.event for record in caplog.records] == ["cookie_exposed"]  # type: ignore[attr-defined]
    caplog.clear()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_cookies(path) == ("ABC",)
    assert not caplog.records


@pytest.mark.parametrize("mode", [0o644, 0o440, 0o404])
def test_a_cookie_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / ".erlang.cookie"
    path.write_text("ABC")
    path.chmod(0o400)
    assert find_cookie(None, tmp_path) == "ABC"
    path.chmod(mode)
    with pytest.raises(CookieError, match="must be accessible by its owner only"):
        find_cookie(None, tmp_path)
