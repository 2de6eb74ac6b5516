"""The step that each cause of a failure belongs to, and the advice for it."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from quicdist.doctor.findings import Step, Stopped, Trouble
from quicdist.errors import Cause


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The step at which an examination stops for a cause. `advice` is what to do next."""

    step: Step
    trouble: Trouble
    advice: str

    def stopped(self, cause: Cause, text: str) -> Stopped:
        """Returns the exception that ends the examination. `text` is what was observed."""
        return Stopped(self.step, self.trouble, text, self.advice, cause)


_NOT_WANTED = (
    "one node rejects the other: the name differs from the given one, or the node does not accept "
    "the name of this node (its certificate is for another name, net_kernel:allow/1, --accept, a "
    "policy, or an existing connection under that name). See the log of that node"
)
_START = "start the node or its gateway, and check that it listens at this address and port"
_FIND = (
    "check that the node runs. A node on QUIC is named PORT@IP; a node on TCP is found with the "
    "EPMD of its host: `quicdist names HOST`"
)
_REFUSED = Diagnosis(Step.HANDSHAKE, Trouble.REFUSED, _NOT_WANTED)
_UNTRUSTED = Diagnosis(
    Step.CERTIFICATE,
    Trouble.REFUSED,
    "`quicdist cert peer` shows its certificate; --trust selects the certificates to accept",
)
_OTHER = Diagnosis(Step.HANDSHAKE, Trouble.UNREACHABLE, "see the log of that node")
_SOCKET = (
    "check that there is a route to that address, of the same family (IPv4 or IPv6), and that the "
    "firewall of this network lets out UDP. If a relay names the node, --via RELAY connects over "
    "TCP 443"
)

DIAGNOSES = MappingProxyType(
    {
        Cause.NAME: Diagnosis(Step.NAME, Trouble.NAME, "give the name as nodes() shows it"),
        Cause.NOT_FOUND: Diagnosis(Step.NAME, Trouble.UNREACHABLE, _FIND),
        Cause.EPMD_UNREACHABLE: Diagnosis(Step.NAME, Trouble.UNREACHABLE, _FIND),
        Cause.EPMD_PROTOCOL: Diagnosis(Step.NAME, Trouble.UNREACHABLE, _FIND),
        Cause.NOT_IN_EPMD: Diagnosis(Step.NAME, Trouble.UNREACHABLE, _FIND),
        Cause.HOST_UNKNOWN: Diagnosis(
            Step.PORT,
            Trouble.UNREACHABLE,
            "check that the host in the name is correct and known to DNS",
        ),
        Cause.UNREACHABLE: Diagnosis(Step.PORT, Trouble.UNREACHABLE, _SOCKET),
        Cause.ADDRESS_FAMILY: Diagnosis(Step.PORT, Trouble.UNREACHABLE, _SOCKET),
        Cause.BEHIND_NAT: Diagnosis(
            Step.PORT,
            Trouble.UNREACHABLE,
            "use the name that it has at a relay, or run this command in its network",
        ),
        Cause.PORT_CLOSED: Diagnosis(
            Step.PORT,
            Trouble.UNREACHABLE,
            f"{_START}. A port of a relay is closed while its node is not connected to the relay. "
            "A firewall that rejects UDP looks the same",
        ),
        Cause.ALPN: Diagnosis(
            Step.TLS,
            Trouble.REFUSED,
            "the port speaks QUIC without a common ALPN: it is not an Erlang node, or a newer one",
        ),
        Cause.TLS: Diagnosis(Step.TLS, Trouble.UNREACHABLE, "see the log of that node"),
        Cause.CARRIER: Diagnosis(Step.TLS, Trouble.UNREACHABLE, "see the log of that node"),
        Cause.CERTIFICATE_OURS: Diagnosis(
            Step.CERTIFICATE,
            Trouble.REFUSED,
            "the node does not trust this node: give a certificate that it trusts with --cert and "
            "--key, or permit this node there (--allow-uncertified, --trust)",
        ),
        Cause.CERTIFICATE_THEIRS: _UNTRUSTED,
        Cause.KEY_CHANGED: _UNTRUSTED,
        Cause.NAME_AMBIGUOUS: _UNTRUSTED,
        Cause.CERTIFICATE: _UNTRUSTED,
        Cause.COOKIE: Diagnosis(
            Step.COOKIE,
            Trouble.REFUSED,
            "the cookies differ: give the cookie of the cluster with --cookie or QUICDIST_COOKIE, "
            "and compare it with erlang:get_cookie() there",
        ),
        Cause.NOT_ALLOWED: _REFUSED,
        Cause.OTHER_NAME: _REFUSED,
        Cause.CAPABILITIES: _REFUSED,
        Cause.BINDING: _REFUSED,
        Cause.SIMULTANEOUS: _REFUSED,
        Cause.PROTOCOL: Diagnosis(
            Step.HANDSHAKE,
            Trouble.UNREACHABLE,
            "the port is not used by an Erlang node, or by a node with another name",
        ),
        Cause.TICK_TIMEOUT: Diagnosis(
            Step.TICK,
            Trouble.SILENT,
            "the port of the node is open, but the node does not answer: check for a blocked or "
            "suspended VM. Its peers close their connections after net_ticktime",
        ),
    }
)


def stopped(cause: Cause, text: str) -> Stopped:
    """Returns the exception for a cause that alone determines the step."""
    return DIAGNOSES.get(cause, _OTHER).stopped(cause, text)
