"""The exit code of the command, and the advice, for each cause of a failure."""

from __future__ import annotations

from types import MappingProxyType

from quicdist.cli.exit_codes import ExitCode
from quicdist.errors import Cause

_RUNS = "check that it runs, and that its name contains its address"
_TRUST = "--trust selects the certificates to accept, --cert the certificate to present"

ADVICE = MappingProxyType(
    {
        Cause.NAME: (ExitCode.USAGE, ""),
        Cause.NOT_FOUND: (ExitCode.UNREACHABLE, _RUNS),
        Cause.HOST_UNKNOWN: (ExitCode.UNREACHABLE, "check the host in its name"),
        Cause.EPMD_UNREACHABLE: (
            ExitCode.UNREACHABLE,
            "check that a node runs on that host and that EPMD is reachable. A node on QUIC is "
            "named PORT@IP",
        ),
        Cause.EPMD_PROTOCOL: (ExitCode.UNREACHABLE, "another program may use the port of EPMD"),
        Cause.NOT_IN_EPMD: (
            ExitCode.UNREACHABLE,
            "check that it runs: `quicdist names HOST` lists the nodes of a host",
        ),
        Cause.NAME_TAKEN: (ExitCode.LOCAL, "choose another name, or stop the node that has it"),
        Cause.ADDRESS_IN_USE: (ExitCode.LOCAL, "choose another port, or 0 for a free one"),
        Cause.ADDRESS_NOT_AVAILABLE: (
            ExitCode.LOCAL,
            "the address does not belong to this machine: --listen selects the address to bind",
        ),
        Cause.ADDRESS_FAMILY: (
            ExitCode.UNREACHABLE,
            "--name requires an address of the same family, IPv4 or IPv6",
        ),
        Cause.PERMISSION: (ExitCode.LOCAL, ""),
        Cause.SYSTEM: (ExitCode.LOCAL, ""),
        Cause.SETTING: (ExitCode.LOCAL, ""),
        Cause.CERTIFICATE: (ExitCode.LOCAL, ""),
        Cause.UNREACHABLE: (
            ExitCode.UNREACHABLE,
            "there is no route to that address, or a firewall blocks UDP. If a relay names the "
            "node, --via RELAY connects over TCP 443",
        ),
        Cause.PORT_CLOSED: (
            ExitCode.UNREACHABLE,
            f"{_RUNS}. A port of a relay is closed while its node is not connected to the relay",
        ),
        Cause.NO_ANSWER: (
            ExitCode.UNREACHABLE,
            f"{_RUNS}. If this network lets out no UDP and a relay names the node, --via RELAY "
            "connects over TCP 443",
        ),
        Cause.BEHIND_NAT: (ExitCode.UNREACHABLE, ""),  # the error text says what helps
        Cause.ALPN: (
            ExitCode.UNREACHABLE,
            "a relay, another program or a newer quicdist uses that port; quicdist doctor knows a "
            "relay",
        ),
        Cause.TLS: (ExitCode.UNREACHABLE, ""),
        Cause.CERTIFICATE_OURS: (ExitCode.REFUSED, _TRUST),
        Cause.CERTIFICATE_THEIRS: (ExitCode.REFUSED, _TRUST),
        Cause.KEY_CHANGED: (ExitCode.REFUSED, ""),  # the error text contains the command
        Cause.NAME_AMBIGUOUS: (ExitCode.REFUSED, ""),
        Cause.CARRIER: (ExitCode.UNREACHABLE, ""),
        Cause.COOKIE: (
            ExitCode.REFUSED,
            "give the cookie of the cluster with --cookie or QUICDIST_COOKIE",
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
            "the node may be suspended, or not connected to its gateway",
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
"""Cause to exit code and advice. The advice is empty if the error text is sufficient."""
