"""The kinds of peers, where each comes from, and its known limits."""

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
    """The side that dials the connection of a scenario."""

    WE = "the local node dials"
    THEY = "the peer dials"


@dataclass(frozen=True, slots=True)
class Carrier:
    """A kind of peer."""

    key: str
    """The name on the command line."""

    about: str
    alpn: str
    """The ALPN that the connection must have."""

    make: Callable[[Setting], Peer]
    absent: str = ""
    """Why the peer is unavailable on this machine; empty if it is available."""

    limits: Mapping[tuple[str, Dialer | None], str] = field(default_factory=dict)
    """Known failures: (scenario title, dialer or None for both) to the reason."""

    no_messages: str = ""
    """The reason, for a carrier known to stop at the handshake; a ping verifies that it does."""

    def limit(self, title: str, dialer: Dialer) -> str:
        """Returns why this peer is known to fail a scenario; empty if it is not."""
        return self.limits.get((title, dialer), self.limits.get((title, None), ""))


def all_carriers(environment: Mapping[str, str] = os.environ) -> list[Carrier]:
    """Returns all kinds of peers; unavailable ones carry the reason."""
    return [
        Carrier("quicdist", f"another Python process{_own_version()}", "quicdist/2", PythonPeer),
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
    absent = "" if release else f"Erlang not found ({erl}): sudo apt-get install erlang-base"

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
    """Returns a third-party carrier; it is available if its folders are given and erl exists."""
    key = name.upper()
    variable = f"QUICDIST_PEER_{key}"
    given = environment.get(variable, "")
    erl = _erl(environment, key)
    ebins: list[Path] = []
    release = None
    if not given:
        absent = f"not set: {variable}=path[:path...] with its compiled ebin folders"
    else:
        absent = ""
        try:
            ebins = ebin_folders(given)
        except CannotStart as error:
            absent = f"{variable}: {error}"
        release = otp_release(erl)
        if not absent and release is None:
            absent = f"Erlang not found ({erl})"

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
    ("the local node is killed", Dialer.WE): (
        "a listener keeps a dialer that was killed in nodes(), although it logs 'Removing "
        "(timedout) connection'; the same happens between two erlang_quic nodes"
    ),
}


def _macula_dist(environment: Mapping[str, str]) -> Carrier:
    return _compiled(
        environment,
        "macula_dist",
        "macula-dist",
        MaculaDistPeer,
        {},
        no_messages="its released versions complete the handshake and transfer no messages",
    )
