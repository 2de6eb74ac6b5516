"""Trust settings for carriers over TCP: those that `ssl` supports, and those that are rejected."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from quicdist.carriers.trust import (
    CertificateError,
    Certificates,
    Credentials,
    Identity,
    PeerRefused,
    Trust,
    TrustError,
)
from quicdist.carriers.trust.authority import issue, make_authority
from quicdist.carriers.trust.contexts import dialing, listening, presented
from quicdist.carriers.trust.identity import pem

NODE = "a@127.0.0.1"


async def meet(here: Credentials, there: Credentials) -> tuple[Certificates, Certificates]:
    """Returns the certificates that each side received: (dialer, listener)."""
    got: asyncio.Future[Certificates] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.set_result(presented(writer.get_extra_info("ssl_object")))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=listening(there))
    async with server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=dialing(here))
        ours = presented(writer.get_extra_info("ssl_object"))
        try:
            return ours, await asyncio.wait_for(got, 30)
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.mark.io
async def test_an_authority_on_both_sides(tmp_path: Path) -> None:
    authority = make_authority("cluster", 1)
    file = tmp_path / "ca.pem"
    file.write_bytes(pem([authority.certificate]))
    trust = Trust.authority(file)
    here, there = (Credentials(issue(authority, [], ["127.0.0.1"], 1), trust) for _ in range(2))
    to_us, to_them = await meet(here, there)
    assert to_us[0] == there.identity.certificate
    assert to_them[0] == here.identity.certificate
    here.verifier.verify_dialed(NODE, to_us)
    there.verifier.verify_dialer(to_them)
    there.verifier.verify_name(NODE, to_them)
    with pytest.raises(PeerRefused):
        there.verifier.verify_name("a@127.0.0.2", to_them)
    stranger = Credentials(Identity.ephemeral(["127.0.0.1"]), Trust.nothing())
    with pytest.raises((ssl.SSLError, ConnectionError, TimeoutError)):
        to_us, _ = await asyncio.wait_for(meet(stranger, there), 2)
    to_us, to_them = await meet(here, stranger)
    assert list(to_them) == []
    with pytest.raises(PeerRefused):
        here.verifier.verify_dialed(NODE, to_us)


@pytest.mark.io
async def test_first_use_of_who_is_dialed(tmp_path: Path) -> None:
    here = Credentials(Identity.ephemeral(), Trust.first_use(tmp_path / "known"))
    there = Credentials(
        Identity.ephemeral(), Trust.first_use(tmp_path / "theirs", uncertified=["*"])
    )
    to_us, to_them = await meet(here, there)
    here.verifier.verify_dialed(NODE, to_us)
    here.verifier.learn_dialed(NODE, to_us)
    there.verifier.verify_dialer(to_them)
    other = Credentials(Identity.ephemeral(), there.trust)
    to_us, _ = await meet(here, other)
    with pytest.raises(PeerRefused, match="has changed"):
        here.verifier.verify_dialed(NODE, to_us)


def test_what_openssl_cannot_follow_is_refused() -> None:
    for trust in (Trust.first_use("unused"), Trust.pinned({"*": "1" * 64})):
        with pytest.raises(TrustError, match="authority"):
            listening(Credentials(Identity.ephemeral(), trust))
        assert issubclass(TrustError, CertificateError)
        listening(Credentials(Identity.ephemeral(), trust.allowing_uncertified("*")))
