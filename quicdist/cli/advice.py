"""What each cause of a failure is for the command: its exit code, and what to do about it."""

from __future__ import annotations

from types import MappingProxyType

from quicdist.cli.exit_codes import ExitCode
from quicdist.errors import Cause

_RUNS = "does it run, and is its address in its name?"
_TRUST = "--trust says which certificates we accept, --cert which one we present"

ADVICE = MappingProxyType(
    {
        Cause.NAME: (ExitCode.USAGE, ""),
        Cause.NOT_FOUND: (ExitCode.UNREACHABLE, _RUNS),
        Cause.HOST_UNKNOWN: (ExitCode.UNREACHABLE, "is the host in its name right?"),
        Cause.EPMD_UNREACHABLE: (
            ExitCode.UNREACHABLE,
            "does a node run on that host, and is EPMD reachable? A node on QUIC is named PORT@IP",
        ),
        Cause.EPMD_PROTOCOL: (ExitCode.UNREACHABLE, "another program may have the port of EPMD"),
        Cause.NOT_IN_EPMD: (
            ExitCode.UNREACHABLE,
            "does it run? `quicdist names HOST` lists the nodes of a host",
        ),
        Cause.NAME_TAKEN: (ExitCode.LOCAL, "choose another name, or stop the node that has it"),
        Cause.ADDRESS_IN_USE: (ExitCode.LOCAL, "choose another port, or 0 for a free one"),
        Cause.ADDRESS_NOT_AVAILABLE: (
            ExitCode.LOCAL,
            "that address is not this machine's: --listen says where to bind instead",
        ),
        Cause.ADDRESS_FAMILY: (
            ExitCode.UNREACHABLE,
            "--name needs an address of the same kind, IPv4 or IPv6",
        ),
        Cause.PERMISSION: (ExitCode.LOCAL, ""),
        Cause.SYSTEM: (ExitCode.LOCAL, ""),
        Cause.SETTING: (ExitCode.LOCAL, ""),
        Cause.CERTIFICATE: (ExitCode.LOCAL, ""),
        Cause.UNREACHABLE: (ExitCode.UNREACHABLE, "there is no route to that address"),
        Cause.PORT_CLOSED: (ExitCode.UNREACHABLE, _RUNS),
        Cause.NO_ANSWER: (ExitCode.UNREACHABLE, _RUNS),
        Cause.ALPN: (ExitCode.UNREACHABLE, "another program has that port, or a newer quicdist"),
        Cause.TLS: (ExitCode.UNREACHABLE, ""),
        Cause.CERTIFICATE_OURS: (ExitCode.REFUSED, _TRUST),
        Cause.CERTIFICATE_THEIRS: (ExitCode.REFUSED, _TRUST),
        Cause.KEY_CHANGED: (ExitCode.REFUSED, ""),  # the text names the command
        Cause.CARRIER: (ExitCode.UNREACHABLE, ""),
        Cause.COOKIE: (
            ExitCode.REFUSED,
            "give the cluster's cookie with --cookie or QUICDIST_COOKIE",
        ),
        Cause.NOT_ALLOWED: (ExitCode.REFUSED, ""),
        Cause.REFUSED_HERE: (ExitCode.REFUSED, ""),
        Cause.OTHER_NAME: (ExitCode.REFUSED, ""),
        Cause.CAPABILITIES: (ExitCode.REFUSED, ""),
        Cause.BINDING: (ExitCode.REFUSED, ""),
        Cause.SIMULTANEOUS: (ExitCode.REFUSED, ""),
        Cause.SUPERSEDED: (ExitCode.UNREACHABLE, ""),
        Cause.CROWDED: (ExitCode.UNREACHABLE, ""),
        Cause.HANDSHAKE_TIMEOUT: (
            ExitCode.UNREACHABLE,
            "is its node suspended, or its BEAM not connected to the gateway?",
        ),
        Cause.PROTOCOL: (ExitCode.UNREACHABLE, ""),
        Cause.TICK_TIMEOUT: (ExitCode.UNREACHABLE, ""),
        Cause.ANSWERS_UNREAD: (ExitCode.UNREACHABLE, ""),
        Cause.PEER_CLOSED: (ExitCode.UNREACHABLE, ""),
        Cause.PEER_RESTARTED: (ExitCode.UNREACHABLE, ""),
        Cause.LOST: (ExitCode.UNREACHABLE, ""),
        Cause.NOT_CONNECTED: (ExitCode.UNREACHABLE, ""),
        Cause.DISCONNECTED: (ExitCode.UNREACHABLE, ""),
        Cause.STOPPED: (ExitCode.UNREACHABLE, ""),
        Cause.QUEUE_FULL: (ExitCode.UNREACHABLE, ""),
        Cause.INTERNAL: (ExitCode.BUG, ""),
    }
)
"""Cause to exit code and advice, which is empty where the text says it all."""
