"""The kinds of peers, how each is had, and what each is known not to do."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from interop.peers import (
    CannotStart,
    CompiledPeer,
    ErlangPeer,
    ErlangQuicPeer,
    GatewayedPeer,
    MaculaDistPeer,
    Peer,
    PythonPeer,
    QuicDistPeer,
    Setting,
    ebin_folders,
    otp_release,
)


class Dialer(enum.Enum):
    """Who makes the connection that a scenario is played on."""

    WE = "we dial"
    THEY = "they dial"


@dataclass(frozen=True, slots=True)
class Carrier:
    """One kind of peer."""

    key: str
    """Its name on the command line."""

    about: str
    alpn: str
    """What the connection must turn out to be."""

    make: Callable[[Setting], Peer]
    absent: str = ""
    """Why it cannot be had here; empty when it can."""

    limits: Mapping[tuple[str, Dialer | None], str] = field(default_factory=dict)
    """Scenario (by title) and dialer (None: whoever) to the reason why the peer fails it."""

    no_messages: str = ""
    """Set for a carrier known to end at the handshake: the reason, if a ping shows that it does."""

    def limit(self, title: str, dialer: Dialer) -> str:
        """Why this peer is known to fail a scenario; empty when it is not."""
        return self.limits.get((title, dialer), self.limits.get((title, None), ""))


def all_carriers(environment: Mapping[str, str] = os.environ) -> list[Carrier]:
    """All that the harness knows of, those that cannot be had here too, with the reason."""
    return [
        Carrier("quicdist", f"another Python process{_own_version()}", "quicdist/1", PythonPeer),
        _gateway(environment),
        _quic_dist(environment),
        _erlang_quic(environment),
        _macula_dist(environment),
    ]


def _own_version() -> str:
    import platform

    return f" (Python {platform.python_version()})"


def _erl(environment: Mapping[str, str], key: str = "") -> str:
    common = environment.get("QUICDIST_INTEROP_ERL") or "erl"
    return (environment.get(f"QUICDIST_PEER_{key}_ERL") if key else None) or common


def _gateway(environment: Mapping[str, str]) -> Carrier:
    erl = _erl(environment)
    release = otp_release(erl)
    absent = "" if release else f"no Erlang here ({erl}): sudo apt-get install erlang-base"

    def make(setting: Setting) -> Peer:
        return _with_erl(GatewayedPeer(setting), erl)

    about = f"stock Erlang/OTP {release or ''} behind quicdist gateway"
    return Carrier("gateway", about, "quicdist/1", make, absent)


def _compiled(
    environment: Mapping[str, str],
    name: str,
    alpn: str,
    kind: type[CompiledPeer],
    limits: Mapping[tuple[str, Dialer | None], str],
    no_messages: str = "",
) -> Carrier:
    """A foreign carrier, if its folders are given and an erl is there."""
    key = name.upper()
    variable = f"QUICDIST_PEER_{key}"
    given = environment.get(variable, "")
    erl = _erl(environment, key)
    ebins: list[Path] = []
    release = None
    if not given:
        absent = f"not given: {variable}=path[:path...] with its compiled ebin folders"
    else:
        absent = ""
        try:
            ebins = ebin_folders(given)
        except CannotStart as error:
            absent = f"{variable}: {error}"
        release = otp_release(erl)
        if not absent and release is None:
            absent = f"no Erlang here ({erl})"

    def make(setting: Setting) -> Peer:
        return _with_erl(kind(setting, ebins), erl)

    about = f"{name} from {variable}" + (f", Erlang/OTP {release}" if release else "")
    return Carrier(name, about, alpn, make, absent, limits, no_messages)


def _with_erl(peer: ErlangPeer, erl: str) -> ErlangPeer:
    peer.erl = erl
    return peer


def _quic_dist(environment: Mapping[str, str]) -> Carrier:
    return _compiled(environment, "quic_dist", "sample", QuicDistPeer, {})


def _erlang_quic(environment: Mapping[str, str]) -> Carrier:
    return _compiled(environment, "erlang_quic", "erlang-dist", ErlangQuicPeer, _ERLANG_QUIC_LIMITS)


_ERLANG_QUIC_LIMITS: Mapping[tuple[str, Dialer | None], str] = {
    ("we are killed", Dialer.WE): (
        "a dialer that dies without a word is never forgotten: the node logs 'Removing "
        "(timedout) connection' and keeps it in nodes(), one of its own kind too"
    ),
}


def _macula_dist(environment: Mapping[str, str]) -> Carrier:
    return _compiled(
        environment,
        "macula_dist",
        "macula-dist",
        MaculaDistPeer,
        {},
        no_messages="its released versions complete the handshake and carry no message",
    )
