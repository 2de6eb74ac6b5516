"""Plays every scenario with every peer that can be had, and says what came of it."""

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
from interop.peers import CannotStart, Setting, free_port
from interop.scenarios import SCENARIOS, Bench, Says, Scenario
from quicdist import Identity, Node, NodeError, NodeLimits, Trust

_log = logging.getLogger("interop")


@dataclass(frozen=True, slots=True)
class Options:
    """What is wanted of a run."""

    scenarios: Sequence[Scenario] = SCENARIOS
    dialers: Sequence[Dialer] = tuple(Dialer)
    connects: int = 10
    ticktime: int = 8
    """net_ticktime of every node, in seconds: how long the dead go unnoticed, at the worst."""

    timeout: float = 120.0
    """Seconds for one scenario; only a hang takes so long."""

    say: Callable[[str], None] = lambda line: None
    """Told of each outcome as it comes."""


async def run(carriers: Sequence[Carrier], options: Options) -> list[Column]:
    """One column for each carrier and each dialer."""
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
    # All here have one key, and those that can show it must; Erlang's own carriers cannot.
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
            node.disconnect(peer.name)  # or our node waits for words to the dead
            await peer.kill()
    return Column(carrier.key, dialer.value, carrier.about, outcomes)


async def _one(bench: Bench, scenario: Scenario, options: Options) -> Outcome:
    """Plays one; whatever goes wrong is this scenario's, and the next one finds all new."""
    known = bench.carrier.limit(scenario.title, bench.dialer)
    loop = asyncio.get_running_loop()
    start = loop.time()
    try:
        says = await asyncio.wait_for(_play(bench, scenario), options.timeout)
    except _NoMessages:
        return Outcome(Verdict.LIMIT, bench.carrier.no_messages)
    except TimeoutError:
        why = f"not done in {options.timeout:g} s"
    except Exception as error:
        _log.debug("%s", traceback.format_exc())
        why = _one_line(error)
    else:
        note = f"works, although: {known}" if known else says.note
        return Outcome(Verdict.OK, note, says.short, loop.time() - start)
    _log.info("%s: log of the peer: %s", scenario.title, bench.peer.last_words())
    await _start_afresh(bench)
    verdict = Verdict.LIMIT if known else Verdict.FAILED
    return Outcome(verdict, known or why, seconds=loop.time() - start)


class _NoMessages(Exception):
    """The peer is known to end at the handshake, and does."""


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
    """A failure must not be the next scenario's trouble: the peer is started anew by that."""
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
    """PEM files for those who read files: certificate and key."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    certificate.write_bytes(identity.certificate.public_bytes(Encoding.PEM))
    key.write_bytes(identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, key
