"""EPMD: the codec, client against server, and both against OTP's epmd."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.epmd import (
    Dump,
    EpmdAddress,
    EpmdError,
    EpmdRefused,
    EpmdServer,
    Kill,
    ListNames,
    LookUp,
    NodeInfo,
    NodeTable,
    NodeType,
    Register,
    Registration,
    Request,
    RequestReader,
    Stop,
    client,
    decode_found,
    decode_names,
    decode_registered,
    decode_request,
    encode_found,
    encode_names,
    encode_registered,
    encode_request,
    look_up,
    names,
)
from quicdist.carriers.epmd import server as epmd_server
from tests.support.erlang import Erlang
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, until

node_names = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=255)
ports = st.integers(0, 65535)
nodes = st.builds(
    NodeInfo,
    name=node_names,
    port=ports,
    node_type=st.sampled_from(NodeType),
    highest=ports,
    lowest=ports,
    extra=st.binary(max_size=100),
)
requests = st.one_of(
    st.builds(Register, nodes),
    st.builds(LookUp, node_names),
    st.builds(Stop, node_names),
    st.sampled_from((ListNames(), Dump(), Kill())),
)


@given(st.lists(requests, max_size=4), st.data())
def test_requests_come_back_however_cut(sent: list[Request], data: st.DataObject) -> None:
    stream = b"".join(map(encode_request, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader, got = RequestReader(), list[Request]()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += reader.feed(stream[start:end])
    assert got == sent


@given(st.binary(max_size=200))
def test_hostile_requests_raise_one_exception(data: bytes) -> None:
    for read in (decode_request, decode_found, decode_names, decode_registered):
        with contextlib.suppress(EpmdError):
            read(data)


@given(nodes, st.integers(0, 200))
def test_answers_cut_short_are_not_believed(node: NodeInfo, keep: int) -> None:
    whole = encode_found(node)
    assert decode_found(whole) == node
    if keep < len(whole):
        with pytest.raises(EpmdError):
            decode_found(whole[:keep])


def test_answers() -> None:
    assert decode_found(encode_found(None)) is None
    assert decode_registered(encode_registered(7, extended=True)) == (True, 7)
    assert decode_registered(encode_registered(0x10007, extended=False)) == (True, 7)
    assert decode_registered(encode_registered(None, extended=True)) == (False, 0)
    assert decode_registered(b"\x76\x00\x00") is None
    listed = [NodeInfo("a", 1), NodeInfo("5555@10.0.0.7", 65535)]
    assert decode_names(encode_names(4369, listed)) == [("a", 1), ("5555@10.0.0.7", 65535)]


@pytest.mark.parametrize("name", ["", "a b", "a\nname b at port 1", "x" * 256, "tab\there"])
def test_names_that_would_break_a_list_are_refused(name: str) -> None:
    with pytest.raises(EpmdError):
        encode_request(LookUp(name))
    with pytest.raises(EpmdError):
        decode_request(b"\x7a" + name.encode())


@pytest.mark.parametrize("data", [b"\x00\x00", b"\x40\x00", b"\x00\x01?", b"GET / HTTP/1.1"])
def test_what_is_no_request_ends_the_reading(data: bytes) -> None:
    with pytest.raises(EpmdError):
        RequestReader().feed(data)


@asynccontextmanager
async def server(max_clients: int = 256) -> AsyncIterator[EpmdAddress]:
    epmd = await EpmdServer.open("127.0.0.1", 0, NodeTable(), max_clients=max_clients)
    try:
        yield EpmdAddress(*epmd.local_address)
    finally:
        await epmd.close()


@pytest.mark.io
async def test_register_look_up_names_and_forget() -> None:
    async with server() as epmd:
        assert await look_up("a", epmd) is None
        node = NodeInfo("a", 1234, NodeType.HIDDEN)
        registration = await Registration.open(node, epmd)
        assert registration.creation > 3
        assert await look_up("a", epmd) == node
        assert await names(epmd) == [("a", 1234)]
        with pytest.raises(EpmdRefused, match="already"):
            await Registration.open(NodeInfo("a", 99), epmd)
        await registration.close()
        assert await names(epmd) == []


@pytest.mark.io
async def test_a_name_is_free_after_the_close() -> None:
    async with server() as epmd:
        for _ in range(20):
            registration = await Registration.open(NodeInfo("a", 1), epmd)
            await registration.close()


@pytest.mark.io
async def test_the_close_does_not_wait_for_an_epmd_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "_LETTING_GO", 0.05)
    connections: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.read(1024)
        writer.write(b"\x79\x00\x00\x01")  # ALIVE2_RESP; it ignores the end

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        address = EpmdAddress(*listener.sockets[0].getsockname())
        registration = await Registration.open(NodeInfo("a", 1), address)
        await asyncio.wait_for(registration.close(), PATIENCE)
        for writer in connections:
            writer.close()


@pytest.mark.io
async def test_a_registration_outlives_its_epmd() -> None:
    epmd = await EpmdServer.open("127.0.0.1", 0, NodeTable())
    address = EpmdAddress(*epmd.local_address)
    registration = await Registration.open(NodeInfo("a", 1), address)
    await epmd.close()
    again = await EpmdServer.open(address.host, address.port, NodeTable())
    await until(lambda: names(address))
    await registration.close()
    await again.close()


@pytest.mark.io
async def test_clients_are_bounded_and_hostile_ones_dropped() -> None:
    async with server(max_clients=2) as epmd:
        registered = [
            await Registration.open(NodeInfo(name, 1234), epmd) for name in ("one", "two")
        ]
        third = await asyncio.open_connection(epmd.host, epmd.port)
        assert await asyncio.wait_for(third[0].read(), PATIENCE) == b""
        third[1].close()
        await third[1].wait_closed()
        for registration in registered:
            await registration.close()
    async with server() as epmd:
        first = await asyncio.open_connection(epmd.host, epmd.port)
        first[1].write(b"GET / HTTP/1.1\r\n\r\n")
        assert await asyncio.wait_for(first[0].read(), PATIENCE) == b""
        second = await asyncio.open_connection(epmd.host, epmd.port)
        second[1].write(encode_request(Kill()))
        assert await asyncio.wait_for(second[0].read(), PATIENCE) == b"NO"
        for _, writer in (first, second):
            writer.close()
            await writer.wait_closed()


@pytest.mark.io
async def test_who_says_nothing_takes_no_place_from_others() -> None:
    async with server(max_clients=5) as epmd:
        registration = await Registration.open(NodeInfo("a", 1234), epmd)
        silent = await asyncio.gather(
            *(asyncio.open_connection(epmd.host, epmd.port) for _ in range(40))
        )
        gone = [asyncio.create_task(reader.read()) for reader, _ in silent]
        done, _ = await asyncio.wait(gone, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        assert done
        assert await look_up("a", epmd) == NodeInfo("a", 1234)
        other = await Registration.open(NodeInfo("b", 1235), epmd)
        assert sorted(await names(epmd)) == [("a", 1234), ("b", 1235)]
        for _, writer in silent:
            writer.close()
        await asyncio.wait_for(asyncio.gather(*gone, return_exceptions=True), PATIENCE)
        await registration.close()
        await other.close()


@pytest.mark.io
async def test_nobody_there_and_somebody_else_there() -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")
        writer.close()

    other = await asyncio.start_server(shout, "127.0.0.1", 0)
    address = EpmdAddress(*other.sockets[0].getsockname())
    with pytest.raises(EpmdError, match=r"invalid response to PORT_PLEASE2_REQ|does not answer"):
        await look_up("a", address)
    with pytest.raises(EpmdError):
        await Registration.open(NodeInfo("a", 1), address)
    other.close()
    await other.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await look_up("a", address)


@pytest.mark.erlang
async def test_a_real_node_registers_and_finds_others_here() -> None:
    async with server() as epmd:
        mine = await Registration.open(NodeInfo("python", 4711), epmd)
        with await asyncio.to_thread(
            Erlang,
            *("-name", "erlang@127.0.0.1", "-start_epmd", "false"),
            *("-epmd_port", str(epmd.port)),
        ) as erlang:
            answer = await asyncio.to_thread(
                erlang.eval, 'io_lib:format("~p", [erl_epmd:port_please("python", {127,0,0,1})]).'
            )
            assert answer == b"{port,4711,6}"
            found = await look_up("erlang", epmd)
            assert found is not None
            assert found.port > 0
            assert found.highest == 6
            listed = await asyncio.to_thread(
                erlang.eval, 'io_lib:format("~p", [lists:sort(element(2, net_adm:names()))]).'
            )
            assert b'"python",4711' in listed.replace(b"\n", b"").replace(b" ", b"")

        async def is_forgotten() -> bool:
            return await look_up("erlang", epmd) is None

        await until(is_forgotten)
        await mine.close()


@pytest.mark.erlang
async def test_the_real_epmd_takes_our_registration() -> None:
    program = shutil.which("epmd")
    if program is None:
        pytest.skip("no epmd on the PATH")
    port = free_port()
    epmd = EpmdAddress("127.0.0.1", port)
    command = [program, "-port", str(port), "-address", "127.0.0.1"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:

            async def register() -> Registration | None:
                with contextlib.suppress(ConnectionError):
                    return await Registration.open(NodeInfo("python", 4711), epmd)
                return None

            registration = await until(register)
            assert await names(epmd) == [("python", 4711)]
            assert await look_up("python", epmd) == NodeInfo("python", 4711)
            assert await look_up("nobody", epmd) is None
            with pytest.raises(EpmdRefused):
                await Registration.open(NodeInfo("python", 1), epmd)
            await registration.close()
            for _ in range(20):
                registration = await Registration.open(NodeInfo("python", 4711), epmd)
                await registration.close()
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("peer", "ours", "is_local"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.9", "127.0.0.1", True),
        ("::1", "::1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        ("10.0.0.7", "10.0.0.7", True),
        ("10.0.0.8", "10.0.0.7", False),
        ("::ffff:10.0.0.8", "::ffff:10.0.0.7", False),
        ("fe80::1%eth0", "fe80::2%eth0", False),
        ("", "", False),
    ],
)
def test_who_is_of_this_host(peer: str, ours: str, is_local: bool) -> None:
    assert epmd_server._is_local(peer, ours) is is_local


@pytest.mark.io
async def test_another_host_registers_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only local registrations, as in OTP's epmd, so that remote ones cannot use all 255 slots."""
    async with server() as address:
        monkeypatch.setattr(epmd_server, "_is_local", lambda peer, ours: False)
        with pytest.raises(EpmdRefused):
            await Registration.open(NodeInfo("theirs", 4001), address)
        assert await names(address) == []
        monkeypatch.undo()
        ours = await Registration.open(NodeInfo("ours", 4002), address)
        assert await names(address) == [("ours", 4002)]
        await ours.close()
