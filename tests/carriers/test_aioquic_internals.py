"""The aioquic internals that quicdist/carriers/quic/engine/aioquic.py uses.

An aioquic upgrade that changes one of them fails here by name, instead of a hang elsewhere.
"""

from __future__ import annotations

import inspect
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from aioquic import tls
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import Limit, QuicConnection, QuicConnectionState
from aioquic.quic.stream import QuicStream

from quicdist.carriers.quic.congestion.bbr import Bbr
from quicdist.carriers.quic.congestion.cubic import Cubic
from quicdist.carriers.quic.congestion.reno import Reno
from quicdist.carriers.quic.engine import Opening
from quicdist.carriers.quic.engine import aioquic as adapter
from quicdist.carriers.quic.engine.aioquic_recovery import Congestion, Recovery
from quicdist.carriers.quic.tls_exporter import expand_label
from tests.carriers.owners import IDENTITY, settings

Pair = tuple[QuicConnection, QuicConnection]
ADDRESS = ("127.0.0.1", 4433)


def exchange(a: QuicConnection, b: QuicConnection, now: float) -> None:
    for _ in range(10):
        for sender, receiver in ((a, b), (b, a)):
            for data, _ in sender.datagrams_to_send(now):
                receiver.receive_datagram(data, ADDRESS, now)
        now += 0.01


@pytest.fixture
def pair() -> Pair:
    """Returns two bare established connections."""
    client = QuicConnection(
        configuration=QuicConfiguration(
            is_client=True, alpn_protocols=["x"], verify_mode=ssl.CERT_NONE
        )
    )
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["x"])
    configuration.certificate = IDENTITY.certificate
    configuration.private_key = IDENTITY.key
    server = QuicConnection(
        configuration=configuration,
        original_destination_connection_id=client.original_destination_connection_id,
    )
    assert server._state is QuicConnectionState.FIRSTFLIGHT
    client.connect(ADDRESS, 0.0)
    exchange(client, server, 0.0)
    return client, server


def test_what_is_read(pair: Pair) -> None:
    client, server = pair
    assert client._state is QuicConnectionState.CONNECTED
    assert client._network_paths[0].addr == ADDRESS
    assert client._close_event is None
    assert client._is_client
    assert not server._is_client
    assert 0 < client._idle_timeout() <= 60
    assert client._max_datagram_size == 1200
    loss = client._loss
    assert loss.get_probe_timeout() > 0
    assert loss._rtt_initialized
    assert loss._rtt_smoothed >= 0
    assert loss._cc.congestion_window > 0
    assert client.tls.key_schedule is not None
    assert client.tls.key_schedule.cipher_suite.name


def test_the_exporter_secret_is_that_of_the_key_schedule() -> None:
    """The exporter secret is derived with the first 1-RTT key.

    At that moment the key schedule has the master secret, and the transcript ends with the server's
    Finished (RFC 8446, 7.1).
    """
    theirs = QuicConnection._update_traffic_key
    parameters = list(inspect.signature(theirs).parameters)
    assert parameters == list(inspect.signature(adapter._Quic._update_traffic_key).parameters)
    schedule = tls.KeySchedule(tls.CipherSuite.AES_128_GCM_SHA256)
    schedule.extract(None)
    schedule.extract(b"x" * 32)
    schedule.extract(None)
    assert schedule.generation == 3
    assert schedule.algorithm.digest_size == 32
    assert schedule.derive_secret(b"exp master") == expand_label(
        schedule.secret, schedule.algorithm, b"exp master", schedule.hash.copy().finalize(), 32
    )
    for made in ("_client_handle_finished", "_server_handle_hello"):
        lines = inspect.getsource(getattr(tls.Context, made))
        finished = lines.index("generation == 2")
        assert finished < lines.index("Epoch.ONE_RTT")


def test_stream_buffers_tell_what_is_acknowledged_and_pending(pair: Pair) -> None:
    client, server = pair
    client.send_stream_data(0, b"x" * 100)
    stream = client._streams[0]
    assert stream.sender._buffer_start == 0
    assert len(stream.sender._pending[0]) == 100
    exchange(client, server, 1.0)
    assert stream.sender._buffer_start == 100
    assert len(stream.sender._pending) == 0
    assert server._streams[0].receiver.starting_offset() == 100
    assert server._streams[0].receiver.highest_offset == 100


def test_limits_can_be_set_before_the_handshake() -> None:
    made = QuicConnection(configuration=QuicConfiguration(is_client=True))
    for limit in (made._local_max_streams_bidi, made._local_max_streams_uni, made._local_max_data):
        assert isinstance(limit, Limit)
        assert limit.value == limit.sent
        assert limit.used == 0


def test_methods_that_are_overridden_take_what_we_take() -> None:
    for name in ("_write_connection_limits", "_write_stream_limits", "_write_stream_frame"):
        theirs = inspect.signature(getattr(QuicConnection, name))
        ours = inspect.signature(getattr(adapter._Quic, name))
        assert list(theirs.parameters) == list(ours.parameters), name
    stream = QuicStream(stream_id=0, max_stream_data_local=1000)
    assert stream.max_stream_data_local == stream.max_stream_data_local_sent == 1000


def test_a_peers_close_is_known_at_once(pair: Pair) -> None:
    client, server = pair
    server.close(error_code=7, reason_phrase="bye")
    for data, _ in server.datagrams_to_send(2.0):
        client.receive_datagram(data, ADDRESS, 2.0)
    assert client._state is QuicConnectionState.DRAINING
    event = client._close_event
    assert isinstance(event, events.ConnectionTerminated)
    assert (event.error_code, event.frame_type, event.reason_phrase) == (7, None, "bye")


def test_idle_is_called_idle(pair: Pair) -> None:
    client, _ = pair
    client.handle_timer(1000.0)
    assert client._close_event is not None
    assert client._close_event.reason_phrase == "Idle timeout"


class Sink:
    """Records the callbacks of the engine."""

    def __init__(self) -> None:
        self.chunks: list[tuple[int, int]] = []

    def handshake_completed(self, alpn: str) -> None: ...

    def stream_data(self, stream: int, data: bytes) -> None:
        self.chunks.append((stream, len(data)))

    def stream_ended(self, stream: int, how: str) -> None: ...

    def connection_id_issued(self, connection_id: bytes) -> None: ...

    def connection_id_retired(self, connection_id: bytes) -> None: ...


def token_of(connection_id: bytes) -> bytes:
    return b"token of" + connection_id


def adapted() -> tuple[adapter.AioquicConnection, adapter.AioquicConnection]:
    """Returns two established quicdist connections."""
    engine = adapter.engine(settings(max_datagram_size=1200), token_of)
    dialer = engine.dialer("localhost", ["quicdist/1"])
    dialer.verify_peer = lambda certificates: None
    dialer.connect((ADDRESS, None), 0.0)
    listener = engine.listener(Opening(dialer._quic.original_destination_connection_id))
    listener.verify_peer = lambda certificates: None
    carry(dialer, listener, 0.0)
    dialer.peer_proved()
    listener.peer_proved()
    return dialer, listener


def carry(a: adapter.AioquicConnection, b: adapter.AioquicConnection, now: float) -> None:
    for _ in range(10):
        for sender, receiver in ((a, b), (b, a)):
            for data, size, _ in sender.transmit(now):
                receiver.receive(data, size, (ADDRESS, None), now)
        now += 0.01


@pytest.mark.parametrize("whole", [True, False])
def test_a_message_leaves_whole_where_that_is_asked_for(whole: bool) -> None:
    dialer, listener = adapted()
    dialer.send_whole(whole)
    dialer.write(0, [b"x" * 700])
    dialer.write(4, [b"y" * 900])
    carry(dialer, listener, 1.0)
    sink = Sink()
    listener.drain(sink)
    chunks = [size for stream, size in sink.chunks if stream == 4]
    assert (chunks == [900]) is whole
    assert sum(chunks) == 900
    # Data that does not fit into one datagram is sent as well.
    dialer.write(0, [b"x" * 3000])
    carry(dialer, listener, 2.0)
    listener.drain(sink)
    assert listener.received() == 4600


def test_no_window_grows_by_itself() -> None:
    dialer, listener = adapted()
    quic = listener._quic
    whole = quic._local_max_data.value
    dialer.write(0, [bytes(whole)])
    for second in range(1, 200):
        carry(dialer, listener, float(second))
        listener.drain(Sink())
    assert listener.received() == whole
    assert quic._local_max_data.value == whole
    assert quic._streams[0].max_stream_data_local >= whole
    stream = quic._streams[0].max_stream_data_local
    # This also holds when more than half of the stream's window is used.
    quic._streams[0].receiver.highest_offset = stream
    carry(dialer, listener, 300.0)
    assert quic._streams[0].max_stream_data_local == stream
    listener.grant(1000)
    assert quic._local_max_data.value == whole + 1000


def test_reset_tokens_are_ours_on_the_wire_and_the_peers_are_read() -> None:
    dialer, listener = adapted()
    assert dialer.reset_token == token_of(listener._quic.host_cid)
    assert listener.reset_token == b""  # a dialer's first id has none
    listener.renew_id()
    assert listener.reset_token == token_of(dialer._quic._host_cids[1].cid)
    first = dialer._quic._peer_cid.cid
    dialer.move(1.0)
    assert dialer._quic._peer_cid.cid != first
    assert dialer.reset_token == token_of(dialer._quic._peer_cid.cid)
    assert dialer.transmit(1.0)
    assert dialer._quic._loss._pto_count == 0
    assert dialer._quic._handshake_confirmed


def test_a_tls_handshake_of_any_size_is_not_waited_for() -> None:
    engine = adapter.engine(settings(), token_of)
    dialer = engine.dialer("localhost", ["quicdist/1"])
    dialer.verify_peer = lambda certificates: None
    dialer.connect((ADDRESS, None), 0.0)
    listener = engine.listener(Opening(dialer._quic.original_destination_connection_id))
    listener.verify_peer = lambda certificates: None
    stream = dialer._quic._crypto_streams[tls.Epoch.INITIAL].sender
    stream._buffer_start = stream._buffer_stop = 70_000
    stream.write(b"x" * 100)
    for data, _, _ in dialer.transmit(0.0):
        listener.receive(data, len(data), (ADDRESS, None), 0.0)
    assert listener.closed is not None
    assert "too large" in listener.closed.text


@pytest.mark.parametrize(("name", "kind"), [("bbr", Bbr), ("cubic", Cubic), ("reno", Reno)])
def test_recovery_is_ours_with_the_controller_that_the_settings_name(
    name: str, kind: type[object]
) -> None:
    engine = adapter.engine(replace(settings(), congestion=name), token_of)
    connection = engine.dialer("localhost", ["x"])
    connection.verify_peer = lambda certificates: None
    recovery = connection._quic._loss
    assert isinstance(recovery, Recovery)
    assert isinstance(recovery._cc, Congestion)
    assert isinstance(recovery._cc.controller, kind)
    assert connection.datagrams_lost() == 0


def test_nothing_else_touches_aioquic() -> None:
    root = Path(adapter.__file__).parents[3]
    assert root.name == "quicdist"
    touching = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "import aioquic" in (text := path.read_text()) or "from aioquic" in text
    ]
    # Retry packets and their tokens belong to no connection and are public.
    touching.remove("carriers/quic/address_validation.py")
    assert all(path.startswith("carriers/quic/engine/aioquic") for path in touching)


def test_a_server_can_ask_for_a_certificate_and_see_it() -> None:
    """The trust settings depend on this behavior of aioquic.

    aioquic requests a certificate, checks the signature, and accepts any certificate. This test
    fails if aioquic starts to verify certificates.
    """
    dialer, listener = adapted()
    assert listener._quic.tls._request_client_certificate is False
    assert listener.certificates == ()
    assert dialer.certificates == (IDENTITY.certificate,)
    assert dialer.is_confirmed
    theirs = inspect.signature(QuicConnection._initialize)
    assert list(theirs.parameters) == list(inspect.signature(adapter._Quic._initialize).parameters)
    assert listener._quic.tls._receive_buffer == b""
    assert dialer._quic.tls._peer_certificate_chain == []
