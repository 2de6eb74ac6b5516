"""What each cause of a failure is for an examination: the step it belongs to, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from quicdist.doctor.findings import Step, Stopped, Trouble
from quicdist.errors import Cause


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Where an examination stops for a cause. `advice` is what to do next."""

    step: Step
    trouble: Trouble
    advice: str

    def stopped(self, cause: Cause, text: str) -> Stopped:
        """The end of an examination with what was seen."""
        return Stopped(self.step, self.trouble, text, self.advice, cause)


_NOT_WANTED = (
    "the two do not want each other: it has another name than was given, or it does not take ours "
    "(our certificate is for another, net_kernel:allow/1, --accept, a policy, a connection under "
    "that name): its log says which"
)
_START = "start the node, or its gateway; does it listen at this address, and at this port?"
_FIND = (
    "does it run? a node on QUIC is called PORT@IP; one on TCP is found by the EPMD of its host, "
    "which `quicdist names HOST` asks"
)
_REFUSED = Diagnosis(Step.HANDSHAKE, Trouble.REFUSED, _NOT_WANTED)
_UNTRUSTED = Diagnosis(
    Step.CERTIFICATE,
    Trouble.REFUSED,
    "`quicdist cert peer` shows what it presents; --trust says what we believe",
)
_OTHER = Diagnosis(Step.HANDSHAKE, Trouble.UNREACHABLE, "see the log of that node")
_SOCKET = "is there a route to that address from here, and one of the same family, IPv4 or IPv6?"

DIAGNOSES = MappingProxyType(
    {
        Cause.NAME: Diagnosis(Step.NAME, Trouble.NAME, "give the name as it stands in nodes()"),
        Cause.NOT_FOUND: Diagnosis(Step.NAME, Trouble.UNREACHABLE, _FIND),
        Cause.EPMD_UNREACHABLE: Diagnosis(Step.NAME, Trouble.UNREACHABLE, _FIND),
        Cause.EPMD_PROTOCOL: Diagnosis(Step.NAME, Trouble.UNREACHABLE, _FIND),
        Cause.NOT_IN_EPMD: Diagnosis(Step.NAME, Trouble.UNREACHABLE, _FIND),
        Cause.HOST_UNKNOWN: Diagnosis(
            Step.PORT,
            Trouble.UNREACHABLE,
            "is the host in its name right, and known to DNS here?",
        ),
        Cause.UNREACHABLE: Diagnosis(Step.PORT, Trouble.UNREACHABLE, _SOCKET),
        Cause.ADDRESS_FAMILY: Diagnosis(Step.PORT, Trouble.UNREACHABLE, _SOCKET),
        Cause.PORT_CLOSED: Diagnosis(Step.PORT, Trouble.UNREACHABLE, _START),
        Cause.ALPN: Diagnosis(
            Step.TLS,
            Trouble.REFUSED,
            "it speaks QUIC, and none of our ALPNs: it is no Erlang node, or its carrier is newer",
        ),
        Cause.TLS: Diagnosis(Step.TLS, Trouble.UNREACHABLE, "see the log of that node"),
        Cause.CARRIER: Diagnosis(Step.TLS, Trouble.UNREACHABLE, "see the log of that node"),
        Cause.CERTIFICATE_OURS: Diagnosis(
            Step.CERTIFICATE,
            Trouble.REFUSED,
            "it does not believe us: give the certificate that it does with --cert and --key, or "
            "have it let us in (--allow-uncertified, --trust there)",
        ),
        Cause.CERTIFICATE_THEIRS: _UNTRUSTED,
        Cause.KEY_CHANGED: _UNTRUSTED,
        Cause.CERTIFICATE: _UNTRUSTED,
        Cause.COOKIE: Diagnosis(
            Step.COOKIE,
            Trouble.REFUSED,
            "its cookie is another: give the cluster's with --cookie or QUICDIST_COOKIE, and "
            "compare erlang:get_cookie() there",
        ),
        Cause.NOT_ALLOWED: _REFUSED,
        Cause.OTHER_NAME: _REFUSED,
        Cause.CAPABILITIES: _REFUSED,
        Cause.BINDING: _REFUSED,
        Cause.SIMULTANEOUS: _REFUSED,
        Cause.PROTOCOL: Diagnosis(
            Step.HANDSHAKE,
            Trouble.UNREACHABLE,
            "what is there is no Erlang node, or another one than the name says",
        ),
        Cause.TICK_TIMEOUT: Diagnosis(
            Step.TICK,
            Trouble.SILENT,
            "its network process lives, its node does not answer: look for a blocked or suspended "
            "VM; peers take it for down after net_ticktime",
        ),
    }
)


def stopped(cause: Cause, text: str) -> Stopped:
    """The end of an examination for this cause, where the cause alone says the step."""
    return DIAGNOSES.get(cause, _OTHER).stopped(cause, text)
