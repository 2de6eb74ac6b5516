"""Changes at run time: pins, authorities, revocation lists and cookies."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from quicdist import CookieError, Identity, NoConnection, Node, NodeLimits, Trust
from quicdist.carriers.trust import CertificateError, PeerRefused
from quicdist.carriers.trust.authority import issue, make_authority, revoke
from quicdist.carriers.trust.identity import key_pem, pem
from tests.node.test_trust import free_name, node, someone
from tests.support.waiting import until

pytestmark = pytest.mark.io

PATIENT = NodeLimits(connect_timeout=20.0)


async def test_a_pin_that_is_removed_ends_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pins = tmp_path / "pins"
    names, keys = (free_name(), free_name(), free_name()), (someone(), someone(), someone())
    lines = [f"{name} {key.fingerprint}\n" for name, key in zip(names, keys, strict=True)]
    pins.write_text("".join(lines))
    async with (
        node(names[0], keys[0], Trust.pinned(pins)) as ours,
        node(names[1], keys[1], Trust.nothing()) as dialed,
        node(names[2], keys[2], Trust.nothing()) as dialer,
    ):
        await ours.connect(dialed.name)
        await dialer.connect(ours.name)
        pins.write_text(lines[2])
        await until(lambda: ours.nodes() == [dialer.name])
        pins.write_text("".join(lines[:2]))
        await until(lambda: not ours.nodes())
        assert "is no longer trusted" in caplog.text
        await until(lambda: not dialer.nodes())
        with pytest.raises(NoConnection):
            await dialer.connect(ours.name)


async def test_a_certificate_that_is_revoked_ends_the_connection(tmp_path: Path) -> None:
    authority = make_authority("cluster", 1)
    (tmp_path / "ca.pem").write_bytes(pem([authority.certificate]))
    crl = tmp_path / "crl.pem"
    nobody = issue(authority, [free_name()], [], 1)
    crl.write_bytes(revoke(authority, nobody.certificate, None, 1).public_bytes(Encoding.PEM))
    names = free_name(), free_name()
    ids = [issue(authority, [name], [], 1) for name in names]
    trust = Trust.authority(tmp_path / "ca.pem", crl_file=crl)
    async with node(names[0], ids[0], trust) as ours, node(names[1], ids[1], trust) as peer:
        await peer.connect(ours.name)
        former = revoke(authority, nobody.certificate, None, 1)
        crl.write_bytes(revoke(authority, ids[1].certificate, former, 1).public_bytes(Encoding.PEM))
        await until(lambda: not ours.nodes() and not peer.nodes())
        with pytest.raises(NoConnection):
            await peer.connect(ours.name)
        with pytest.raises(NoConnection, match="revoked"):
            await ours.connect(peer.name)


@pytest.mark.io
async def test_an_authority_is_rotated_without_a_connection_lost(tmp_path: Path) -> None:
    """With both authorities in the file, certificates of either are trusted and connections stay.

    Removing the old one closes connections with its certificates only.
    """
    old, new = make_authority("old", 365), make_authority("new", 365)
    file = tmp_path / "ca.pem"
    file.write_bytes(pem([old.certificate]))
    names = free_name(), free_name(), free_name()
    trust = Trust.authority(file)
    ours_file = tmp_path / "node.pem"

    def install(identity: Identity) -> None:
        ours_file.touch(mode=0o600)
        ours_file.write_bytes(key_pem(identity.key) + pem([identity.certificate]))

    install(issue(old, [names[0]], [], 365))
    laggard, renewed = issue(old, [names[1]], [], 365), issue(new, [names[2]], [], 365)
    async with (
        node(names[0], Identity.load(ours_file), trust) as ours,
        node(names[1], laggard, trust) as left_behind,
        node(names[2], renewed, trust) as ahead,
    ):
        await left_behind.connect(ours.name)
        with pytest.raises(NoConnection):
            await ahead.connect(ours.name)
        file.write_bytes(pem([old.certificate, new.certificate]))
        await ahead.connect(ours.name)
        assert set(ours.nodes()) == {left_behind.name, ahead.name}
        # The own certificate is replaced on disk: connections stay, and new ones present it.
        install(issue(new, [names[0]], [], 365))
        ours.recheck_peers()
        ahead.disconnect(ours.name)
        await until(lambda: ours.nodes() == [left_behind.name])
        await ahead.connect(ours.name)
        file.write_bytes(pem([new.certificate]))
        await until(lambda: ours.nodes() == [ahead.name])
        assert ours.name in ahead.nodes()
        await until(lambda: not left_behind.nodes())
        with pytest.raises(NoConnection):
            await left_behind.connect(ours.name)
        assert await ahead.ping(ours.name)


def test_only_the_authority_itself_revokes(tmp_path: Path) -> None:
    """A revocation list in the authority's name that another key has signed is ignored."""
    authority, impostor = make_authority("cluster", 1), make_authority("cluster", 1)
    (tmp_path / "ca.pem").write_bytes(pem([authority.certificate]))
    crl = tmp_path / "crl.pem"
    name = free_name()
    own = issue(authority, [name], [], 1)
    for signer, is_revoked in ((impostor, False), (authority, True)):
        crl.write_bytes(revoke(signer, own.certificate, None, 1).public_bytes(Encoding.PEM))
        verifier = Trust.authority(tmp_path / "ca.pem", crl_file=crl).verifier()
        if is_revoked:
            with pytest.raises(PeerRefused, match="revoked"):
                verifier.verify_dialed(name, [own.certificate])
        else:
            verifier.verify_dialed(name, [own.certificate])
    crl.write_text("nonsense")
    with pytest.raises(CertificateError, match="no PEM revocation list"):
        Trust.authority(tmp_path / "ca.pem", crl_file=crl)
    with pytest.raises(CertificateError, match="not issued by this authority"):
        revoke(authority, Identity.ephemeral().certificate, None, 1)


async def test_an_authority_that_is_taken_out_ends_the_connections_of_its_nodes(
    tmp_path: Path,
) -> None:
    former, new = make_authority("former", 1), make_authority("new", 1)
    file = tmp_path / "ca.pem"
    file.write_bytes(pem([former.certificate, new.certificate]))
    names = free_name(), free_name(), free_name()
    trust = Trust.authority(file)
    async with (
        node(names[0], issue(new, [names[0]], [], 1), trust) as ours,
        node(names[1], issue(former, [names[1]], [], 1), Trust.nothing()) as old,
        node(names[2], issue(new, [names[2]], [], 1), Trust.nothing()) as renewed,
    ):
        await ours.connect(old.name)
        await ours.connect(renewed.name)
        file.write_bytes(pem([new.certificate]))
        await until(lambda: ours.nodes() == [renewed.name])


# -- cookies -------------------------------------------------------------------------------------


def with_cookies(*cookies: str) -> Node:
    return Node(
        free_name(),
        cookie=cookies,
        identity=someone(),
        trust=Trust.nothing(),
        limits=PATIENT,
    )


async def test_a_cluster_changes_its_cookie_node_by_node() -> None:
    async with with_cookies("old") as one, with_cookies("old") as two:
        assert await one.ping(two.name)
        steps = (["old", "new"], ["new", "old"], ["new"])
        for cookies in steps:
            for changed in (one, two):
                changed.change_cookies(cookies)
                for here, there in ((one, two), (two, one)):
                    here.disconnect(there.name)
                    await until(lambda: not one.nodes() and not two.nodes())
                    await here.connect(there.name)
        async with with_cookies("old") as late:
            with pytest.raises(NoConnection, match="cookie"):
                await late.connect(one.name)


async def test_who_dials_takes_no_cookie_but_its_own_for_proof() -> None:
    """A dialed node must prove the current cookie; a merely accepted one does not suffice."""
    async with with_cookies("new", "old") as ours, with_cookies("old") as stale:
        with pytest.raises(NoConnection, match="cookie"):
            await ours.connect(stale.name)
        await stale.connect(ours.name)


def test_no_cookie_is_no_setting() -> None:
    for cookies in ((), ("",), ("good", ""), ("x" * 256,)):
        with pytest.raises(CookieError):
            Node("0@127.0.0.1", cookie=cookies)
