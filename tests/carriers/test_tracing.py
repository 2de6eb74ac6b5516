"""Key and packet logs: complete, readable only by their owner, and off by default."""

from __future__ import annotations

import json
import logging
import re
import shutil
import socket
import stat
import struct
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from quicdist import Node, Quic, StartError, Tracing
from quicdist.carriers.quic import udp
from quicdist.carriers.quic.engine import Path as NetworkPath
from tests.carriers.owners import node
from tests.support.engines import ENGINES

pytestmark = pytest.mark.io

SAID = b"what was said"
LABELS = {
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
    "SERVER_HANDSHAKE_TRAFFIC_SECRET",
    "CLIENT_TRAFFIC_SECRET_0",
    "SERVER_TRAFFIC_SECRET_0",
}


async def talk(tracing: Tracing, engine: str = "auto") -> None:
    """Runs a connection with traffic between two endpoints that trace."""
    async with (
        node(tracing=tracing, engine=engine) as one,
        node(tracing=tracing, engine=engine) as two,
    ):
        owner, there = await one.connect(two)
        owner.connection.send_frame([SAID])
        await there.until(lambda: there.frames == [SAID])
        owner.connection.close("enough")
        await there.until(lambda: bool(there.lost))


def records(file: Path) -> list[Any]:
    """Parses a JSON text sequence (RFC 7464): a record separator before and a line feed after."""
    texts = file.read_text().split("\x1e")
    assert texts[0] == ""
    assert all(text.endswith("\n") for text in texts[1:])
    return [json.loads(text) for text in texts[1:]]


async def test_both_ends_write_the_same_keys_for_their_owner_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.touch(mode=0o644)
    await talk(Tracing(key_log=file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secrets = defaultdict(list)
    for line in file.read_text().splitlines():
        label, random, secret = line.split(" ")
        assert re.fullmatch(r"[0-9a-f]{64}", random)
        secrets[label].append(secret)
    assert LABELS <= set(secrets) <= LABELS | {"EXPORTER_SECRET"}
    assert all(len(each) == 2 and len(set(each)) == 1 for each in secrets.values())
    loud = [r for r in caplog.records if r.levelno == logging.WARNING and str(file) in r.message]
    assert len(loud) == 2


@pytest.mark.parametrize("engine", ENGINES)
async def test_each_end_writes_what_passed_and_not_what_was_said(
    tmp_path: Path, engine: str
) -> None:
    where = tmp_path / "qlog"
    await talk(Tracing(qlog=where), engine)
    sides = {}
    for file in where.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert SAID.decode() not in file.read_text()
        assert SAID.hex() not in file.read_text()
        header, *events = records(file)
        assert (header["qlog_format"], header["qlog_version"]) == ("JSON-SEQ", "0.3")
        assert file.stem.startswith(header["trace"]["common_fields"]["ODCID"])
        sides[header["trace"]["vantage_point"]["type"]] = events
    assert set(sides) == {"client", "server"}
    for events in sides.values():
        packets = [e for e in events if e["name"].startswith("transport:packet_")]
        assert {e["name"] for e in packets} >= {
            "transport:packet_sent",
            "transport:packet_received",
        }
        if engine == "native":
            continue  # it writes no frames
        frames = [frame["frame_type"] for e in packets for frame in e["data"].get("frames", [])]
        assert {"crypto", "stream", "connection_close"} <= set(frames)


async def test_nothing_is_written_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    await talk(Tracing())
    assert list(tmp_path.iterdir()) == []
    assert "debugging" not in caplog.text


@pytest.mark.parametrize("what", ["key_log", "qlog"])
async def test_a_place_that_cannot_be_had_is_said_at_start(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").touch()
    tracing = Tracing(**{what: tmp_path / "file" / "below"})
    with pytest.raises(StartError, match=f"{tmp_path}/file/below: Not a directory"):
        await Node("0@127.0.0.1", cookie="c", carriers=[Quic(tracing=tracing)]).start()


async def test_a_place_that_goes_away_costs_no_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracing = Tracing(key_log=tmp_path / "a" / "keys", qlog=tmp_path / "b")
    (tmp_path / "a").mkdir()
    async with node(tracing=tracing) as one, node(tracing=tracing) as two:
        shutil.rmtree(tmp_path / "a")
        shutil.rmtree(tmp_path / "b")
        owner, there = await one.connect(two)
        owner.connection.send_frame([SAID])
        await there.until(lambda: there.frames == [SAID])
    failed = [r for r in caplog.records if "cannot be written" in r.message]
    assert len(failed) == 4  # each endpoint's keys, each connection's qlog


@pytest.mark.skipif(shutil.which("tshark") is None, reason="no tshark: apt-get install tshark")
async def test_wireshark_reads_with_the_keys_what_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = Capture(tmp_path / "talk.pcap")
    send = udp.UdpSocket.send

    def captured(self: udp.UdpSocket, data: bytes, path: NetworkPath) -> None:
        capture.datagram(data, int(self.address[1]), int(path[0][1]))
        send(self, data, path)

    monkeypatch.setattr(udp.UdpSocket, "send", captured)
    monkeypatch.setattr(udp.UdpSocket, "sender_to", lambda self, address: None)
    await talk(Tracing(key_log=tmp_path / "keys"))
    shown = [
        subprocess.run(
            ["tshark", "-r", str(capture.file), *keys, "-T", "fields", "-e", "quic.stream_data"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for keys in ([], ["-o", f"tls.keylog_file:{tmp_path / 'keys'}"])
    ]
    assert [SAID.hex() in text for text in shown] == [False, True]


class Capture:
    """Writes a pcap file of UDP datagrams on loopback, as raw IPv4 (LINKTYPE_RAW)."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))

    def datagram(self, data: bytes, source: int, destination: int) -> None:
        here = socket.inet_aton("127.0.0.1")
        whole = struct.pack(">HHHH", source, destination, 8 + len(data), 0) + data
        header = (0x45, 0, 20 + len(whole), 0, 0, 64, socket.IPPROTO_UDP, 0, here, here)
        packet = struct.pack(">BBHHHBBH4s4s", *header) + whole
        with self.file.open("ab") as file:
            file.write(struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet)
