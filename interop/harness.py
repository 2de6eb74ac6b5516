"""Runs every scenario with every available peer and reports the outcomes."""

from __future__ import annotations

import asyncio
import logging
import secrets
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from interop import actor
from interop.actor import Unexpected
from interop.carriers import Carrier, Dialer
from interop.control import HOST, PeerError
from interop.outcome import Column, Outcome, Verdict
from interop.peers import CannotStart, Setting
from interop.scenarios import CONNECT, SCENARIOS, Bench, Says, Scenario
from quicdist import Identity, Node, NodeError, NodeLimits, Trust
from tests.support.ports import free_port

_log = logging.getLogger("interop")


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a run."""

    scenarios: Sequence[Scenario] = SCENARIOS
    dialers: Sequence[Dialer] = tuple(Dialer)
    connects: int = 10
    ticktime: int = 8
    """net_ticktime of every node in seconds, which bounds the detection of a dead peer."""

    timeout: float = 120.0
    """Timeout of one scenario in seconds; only a hang takes so long."""

    say: Callable[[str], None] = lambda line: None
    """Called with each outcome as text."""


async def run(carriers: Sequence[Carrier], options: Options) -> list[Column]:
    """Runs all scenarios; returns one column for each carrier and dialer."""
    columns: list[Column] = []
    with tempfile.TemporaryDirectory(prefix="quicdist-interop-") as place:
        for carrier in carriers:
            if carrier.absent:
                options.say(f"{carrier.key}: n/a: {carrier.absent}")
                columns.append(_not_here(carrier, options))
                continue
            for dialer in options.dialers:
                directory = Path(place) / f"{carrier.key}-{dialer.name.lower()}"
                columns.append(await _column(carrier, dialer, directory, options))
    return columns


def _not_here(carrier: Carrier, options: Options) -> Column:
    outcome = Outcome(Verdict.NOT_APPLICABLE, carrier.absent)
    outcomes = {scenario.title: outcome for scenario in options.scenarios}
    return Column(carrier.key, "", carrier.about, outcomes)


async def _column(carrier: Carrier, dialer: Dialer, directory: Path, options: Options) -> Column:
    directory.mkdir()
    cookie = secrets.token_hex(8)
    ours, theirs, double = (f"{free_port()}@{HOST}" for _ in range(3))
    identity = Identity.ephemeral([HOST])
    certificate, key = _write_identity(identity, directory)
    place = directory / "peer"
    place.mkdir()
    setting = Setting(theirs, cookie, (ours, double), options.ticktime, place, certificate, key)
    place = directory / "double"
    place.mkdir()
    limits = NodeLimits(net_ticktime=options.ticktime)
    peer = carrier.make(setting)
    calls = actor.Calls()
    outcomes: dict[str, Outcome] = {}
    # All nodes share one key. A peer that supports client certificates must present it; the
    # carriers written in Erlang do not.
    trust = Trust.first_use(directory / "known_nodes", uncertified=["*"])
    async with Node(
        ours, cookie=cookie, exports=[calls], identity=identity, trust=trust, limits=limits
    ) as node:
        calls.node = node
        node.spawn(actor.serve, name=actor.SERVER)
        bench = Bench(
            carrier,
            dialer,
            node,
            peer,
            limits=limits,
            identity=identity,
            trust=trust,
            double=replace(setting, name=double, others=(theirs,), directory=place),
            connects=options.connects,
        )
        try:
            for scenario in options.scenarios:
                outcome = await _one(bench, scenario, options)
                outcomes[scenario.title] = outcome
                options.say(_said(bench, scenario, outcome))
        finally:
            node.disconnect(peer.name)  # else this node waits for frames to the dead peer
            await peer.kill()
    return Column(carrier.key, dialer.value, carrier.about, outcomes)


async def _one(bench: Bench, scenario: Scenario, options: Options) -> Outcome:
    """Runs one scenario; a failure does not affect the next, which starts with new connections."""
    known = bench.carrier.limit(scenario.title, bench.dialer)
    loop = asyncio.get_running_loop()
    start = loop.time()
    # A peer may need a second for each connection.
    limit = options.timeout + (options.connects if scenario.title == CONNECT else 0)
    try:
        says = await asyncio.wait_for(_play(bench, scenario), limit)
    except _NoMessages:
        return Outcome(Verdict.LIMIT, bench.carrier.no_messages)
    except TimeoutError:
        why = f"timeout after {limit:g} s"
    except Exception as error:
        _log.debug("%s", traceback.format_exc())
        why = _one_line(error)
    else:
        note = f"passes despite the known limit: {known}" if known else says.note
        return Outcome(Verdict.OK, note, says.short, loop.time() - start)
    _log.info("%s: log of the peer: %s", scenario.title, bench.peer.log_tail())
    await _start_afresh(bench)
    verdict = Verdict.LIMIT if known else Verdict.FAILED
    return Outcome(verdict, known or why, seconds=loop.time() - start)


class _NoMessages(Exception):
    """Whether the peer is known to stop at the handshake and does."""


async def _play(bench: Bench, scenario: Scenario) -> Says:
    if bench.peer.is_down:
        await bench.peer.start()
        await bench.probe()
    if bench.carries:
        await bench.connected()
    elif scenario.carries:
        raise _NoMessages
    return await scenario.play(bench) or Says()


async def _start_afresh(bench: Bench) -> None:
    """Kills the peer after a failure, so that the next scenario starts a new process."""
    await bench.peer.kill()
    bench.node.disconnect(bench.peer.name)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    known = isinstance(error, Unexpected | PeerError | CannotStart | NodeError)
    return text[:300] if known else f"{type(error).__name__}: {text[:300]}"


def _said(bench: Bench, scenario: Scenario, outcome: Outcome) -> str:
    words = [f"{bench.carrier.key}, {bench.dialer.value}: {scenario.title}:"]
    words += [outcome.verdict.value, outcome.short, f"{outcome.seconds:.1f} s"]
    line = " ".join(filter(None, words))
    return f"{line}: {outcome.note}" if outcome.note else line


def _write_identity(identity: Identity, directory: Path) -> tuple[Path, Path]:
    """Writes PEM files of the certificate and key, for peers that read files."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    certificate.write_bytes(identity.certificate.public_bytes(Encoding.PEM))
    key.write_bytes(identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, key
