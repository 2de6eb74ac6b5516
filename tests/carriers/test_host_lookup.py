"""Look-up of host names within a time."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from quicdist.carriers import causes
from quicdist.carriers.base import DialError
from quicdist.carriers.host_lookup import look_up_host
from quicdist.carriers.trust import Trust
from quicdist.cluster.lookup import DEFAULT_LOOKUPS, facing_found
from quicdist.cluster.via import parse_via
from quicdist.doctor import Settings, Stopped, examine
from quicdist.errors import Cause, StartError
from quicdist.limits import NodeLimits
from quicdist.node.node import Node
from tests.carriers.owners import node

KIND = socket.SOCK_DGRAM


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A name server that answers when the event is set, and at the end of the test."""
    told = threading.Event()
    real = socket.getaddrinfo

    def ask(host: str, *rest: object) -> object:
        if host.endswith(".example.org"):
            told.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "late")
        return real(host, *rest)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    yield told
    told.set()


@pytest.mark.io
async def test_a_name_server_that_does_not_answer(silent: threading.Event) -> None:
    with pytest.raises(socket.gaierror, match=r"no answer to the look-up of the host in 0.01 s"):
        await look_up_host("r.example.org", 1, kind=KIND, timeout=0.01)
    silent.set()


@pytest.mark.io
def test_the_end_of_a_program_does_not_wait_for_it(silent: threading.Event) -> None:
    async def main() -> None:
        with pytest.raises(socket.gaierror):
            await look_up_host("r.example.org", 1, kind=KIND, timeout=0.01)

    asyncio.run(main())
    assert not silent.is_set()
    assert any(thread.name == "look up r.example.org" for thread in threading.enumerate())


@pytest.mark.io
async def test_an_unknown_host_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    with pytest.raises(socket.gaierror, match="not known") as told:
        await look_up_host("r.example.org", 1, kind=KIND, timeout=60)
    assert causes.of_error(told.value) is Cause.HOST_UNKNOWN


@pytest.mark.io
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%lo"])
async def test_an_address_needs_no_thread(host: str) -> None:
    before = threading.active_count()
    family, _, _, _, address = (await look_up_host(host, 9, kind=KIND, timeout=1))[0]
    assert family is (socket.AF_INET if "." in host else socket.AF_INET6)
    assert address[1] == 9
    assert threading.active_count() == before


@pytest.mark.io
@pytest.mark.usefixtures("silent")
async def test_a_dial_ends_in_its_time() -> None:
    async with node() as a:
        with pytest.raises(DialError, match="no answer to the look-up"):
            await a.endpoint.dial("r.example.org", 4433, timeout=0.01)


@pytest.mark.io
@pytest.mark.usefixtures("silent")
async def test_the_own_name_for_an_unknown_host() -> None:
    assert await facing_found("1@r.example.org", DEFAULT_LOOKUPS, 0.01) == "0@127.0.0.1"


@pytest.mark.io
@pytest.mark.usefixtures("silent")
async def test_a_relay_whose_host_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICDIST_STATE_DIR", str(tmp_path))
    via, limits = "4433@r.example.org", NodeLimits(connect_timeout=0.01)
    with pytest.raises(StartError, match=r"relay 4433@r.example.org: no answer to the") as told:
        await Node(via=via, cookie="c", limits=limits).start()
    assert told.value.cause is not Cause.NO_ANSWER


@pytest.mark.io
async def test_a_node_gives_a_relay_its_connect_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICDIST_STATE_DIR", str(tmp_path))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        via = f"{mute.getsockname()[1]}@127.0.0.1/0"
        limits = NodeLimits(connect_timeout=0.05)
        with pytest.raises(StartError, match=r"no answer in 0\.0\d+ s") as told:
            await Node(via=via, cookie="c", limits=limits).start()
        assert told.value.cause is Cause.NO_ANSWER


@pytest.mark.io
async def test_the_doctor_gives_a_relay_its_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICDIST_STATE_DIR", str(tmp_path))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        via = parse_via(f"{mute.getsockname()[1]}@127.0.0.1/0")
        settings = Settings(cookie="c", trust=Trust.nothing(), via=via, timeout=0.05)
        with pytest.raises(Stopped, match=r"no answer in 0\.0\d+ s"):
            async for _ in examine("4433@127.0.0.1", settings):
                pass
