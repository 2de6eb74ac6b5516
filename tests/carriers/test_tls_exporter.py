"""TLS exporter values: equal to OpenSSL's, and equal at both ends of a QUIC connection."""

from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL

from quicdist.carriers.quic.tls_exporter import LABEL, LENGTH, export
from quicdist.protocol.dialects import ALL_ALPNS
from quicdist.protocol.handshake_messages import Prover, bound_digest
from tests.carriers.owners import IDENTITY, node
from tests.support.engines import needs_native

ENGINES = ("aioquic", "aioquic-plain", "native")


@pytest.mark.parametrize("label", [LABEL, b"EXPORTER-Channel-Binding"])
def test_they_are_those_of_openssl(label: bytes) -> None:
    secrets: dict[str, bytes] = {}

    def keep(connection: SSL.Connection, line: bytes) -> None:
        name, _, secret = line.decode().split(" ")
        secrets[name] = bytes.fromhex(secret)

    def context(method: int) -> SSL.Context:
        made = SSL.Context(method)
        made.set_min_proto_version(SSL.TLS1_3_VERSION)
        return made

    serving = context(SSL.TLS_SERVER_METHOD)
    serving.use_certificate(IDENTITY.certificate)
    serving.use_privatekey(IDENTITY.key)
    dialing = context(SSL.TLS_CLIENT_METHOD)
    dialing.set_keylog_callback(keep)
    client, server = SSL.Connection(dialing), SSL.Connection(serving)
    client.set_connect_state()
    server.set_accept_state()
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                one.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))
    algorithm = hashes.SHA384() if len(secrets["EXPORTER_SECRET"]) == 48 else hashes.SHA256()
    ours = export(secrets["EXPORTER_SECRET"], algorithm, label, b"context", LENGTH)
    assert ours == client.export_keying_material(label, LENGTH, b"context")


def test_a_proof_depends_on_cookie_challenge_session_and_side() -> None:
    proofs = {
        bound_digest(cookie, challenge, binding, prover)
        for cookie in (b"a", b"b")
        for challenge in (1, 2)
        for binding in (b"x" * 32, b"y" * 32)
        for prover in Prover
    }
    assert len(proofs) == 16
    assert {len(proof) for proof in proofs} == {16}


@pytest.mark.io
@pytest.mark.parametrize(
    "ends",
    [
        pytest.param((a, b), marks=[needs_native] if "native" in (a, b) else [])
        for a in ENGINES
        for b in ENGINES
    ],
)
async def test_both_ends_have_the_same_and_each_connection_another(ends: tuple[str, str]) -> None:
    async with node(engine=ends[0]) as a, node(engine=ends[1]) as b:
        values = []
        for _ in range(2):
            here, there = await a.connect(b, alpn="quicdist/1")
            assert here.connection.binding == there.connection.binding
            values.append(here.connection.binding)
        assert len(set(values)) == 2
        assert {len(value) for value in values} == {LENGTH}


@pytest.mark.io
async def test_what_stock_nodes_speak_has_none() -> None:
    async with node() as a, node() as b:
        for alpn in ALL_ALPNS:
            here, _ = await a.connect(b, alpn=alpn)
            assert bool(here.connection.binding) is alpn.startswith("quicdist/")
