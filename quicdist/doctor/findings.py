"""What an examination tells: what was found at each step, or where it stopped."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from quicdist.errors import Cause, QuicdistError


class Step(enum.Enum):
    """What is looked at, in this order."""

    NAME = "name"
    """The name, and where it says, or EPMD says, that the node is."""

    PORT = "port"
    """Whether anything answers there."""

    TLS = "tls"
    """The TLS handshake, and in it the ALPN that chooses the dialect."""

    CERTIFICATE = "certificate"
    """What it presents, and whether we believe it."""

    HANDSHAKE = "handshake"
    """The distribution handshake: whether the two nodes want each other."""

    COOKIE = "cookie"
    """Whether it is the same."""

    TICK = "tick"
    """Whether the node behind the connection lives."""


class Trouble(enum.Enum):
    """What kind of trouble stops an examination."""

    NAME = "the name means nothing"
    UNREACHABLE = "nothing answers, or no node"
    REFUSED = "the node answers, and one of the two does not want the other"
    SILENT = "the node took the connection, and no answer came in time"


@dataclass(frozen=True, slots=True)
class Finding:
    """A step that went well."""

    step: Step
    text: str


class Stopped(QuicdistError):
    """A step that failed: `cause` is why, `advice` what to do next."""

    def __init__(self, step: Step, trouble: Trouble, text: str, advice: str, cause: Cause) -> None:
        super().__init__(text)
        self.cause = cause
        self.step = step
        self.trouble = trouble
        self.advice = advice
