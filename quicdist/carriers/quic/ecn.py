"""Explicit Congestion Notification (RFC 3168; RFC 9000, 13.4).

A node sends its datagrams with ECT(0). Routers with a queue replace it by CE instead of dropping
the datagram. The receiver counts the codepoints and reports the counts in ACK frames. This module
does no I/O.
"""

from __future__ import annotations

from typing import NamedTuple

NOT_ECT, ECT1, ECT0, CE = range(4)
"""The codepoints of the ECN field (RFC 3168, 5)."""

_TESTED = 10
"""The validation fails if at least this number of packets was marked with CE and none was not."""


class EcnCounts(NamedTuple):
    """The numbers of received packets by codepoint, as in an ACK frame (RFC 9000, 19.3.2)."""

    ect0: int
    ect1: int
    ce: int


class EcnValidation:
    """Whether a path and its peer report ECN marks correctly (RFC 9000, 13.4.2.1)."""

    def __init__(self) -> None:
        self.marks = True
        """Whether packets are to be sent with ECT(0). False after the validation has failed."""
        self._seen: EcnCounts | None = EcnCounts(0, 0, 0)

    def restart(self) -> None:
        """Begins again on a new path. The counts of the peer continue."""
        self.marks = True
        self._seen = None

    def acknowledged(self, packets: int, counts: EcnCounts | None, sent: int) -> int:
        """Takes an ACK frame that has raised the largest acknowledged packet number.

        It acknowledges `packets` packets that were sent with ECT(0) and not acknowledged before;
        `sent` packets were sent in all. Returns the number of packets newly reported with CE.
        """
        if not self.marks:
            return 0
        seen = self._seen if self._seen is not None else counts
        if counts is None or seen is None:
            self.marks = not packets
            return 0
        if self._seen is None:
            packets = 0  # the first counts on this path
        ect0, marked = counts.ect0 - seen.ect0, counts.ce - seen.ce
        self.marks = (
            ect0 >= 0
            and marked >= 0
            and ect0 + marked >= packets
            and counts.ect1 == seen.ect1
            and counts.ect0 <= sent
            and not (counts.ect0 == 0 and counts.ce >= _TESTED)
        )
        self._seen = counts
        return marked if self.marks else 0
