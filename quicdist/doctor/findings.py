"""The results of an examination: a finding for each step, or the step where it stopped."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from quicdist.errors import Cause, QuicdistError


class Step(enum.Enum):
    """The steps of an examination, in this order."""

    NAME = "name"
    """The name and the address that it or EPMD gives."""

    PORT = "port"
    """Whether the port answers."""

    TLS = "tls"
    """The TLS handshake and the ALPN protocol."""

    CERTIFICATE = "certificate"
    """The certificate of the node, and whether it is trusted."""

    HANDSHAKE = "handshake"
    """The distribution handshake: whether the two nodes accept each other."""

    COOKIE = "cookie"
    """Whether the cookies are equal."""

    RELAY = "relay"
    """Whether a relay answers. Only the path comes after this step."""

    TICK = "tick"
    """Whether the node behind the connection answers."""

    PATH = "path"
    """The address of this host that the node or relay observes, and the kind of NAT in between."""

    DIRECT = "direct"
    """How datagrams travel to a node that a relay names. Other nodes do not have this step."""


class Trouble(enum.Enum):
    """The kind of failure that stops an examination."""

    NAME = "the name is invalid or has no address"
    UNREACHABLE = "no node answers at the address"
    REFUSED = "the node answers, and one node rejects the other"
    SILENT = "the node accepted the connection and did not answer in time"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a step that succeeded."""

    step: Step
    text: str


class Stopped(QuicdistError):
    """A step failed. `cause` is the reason, `advice` is what to do next."""

    def __init__(self, step: Step, trouble: Trouble, text: str, advice: str, cause: Cause) -> None:
        super().__init__(text)
        self.cause = cause
        self.step = step
        self.trouble = trouble
        self.advice = advice
