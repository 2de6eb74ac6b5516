"""The 1-RTT keys of aioquic's connections, which change with each key phase (RFC 9001, 6).

aioquic updates no keys by itself, derives the next keys for each packet with the other key phase
bit, even for forged ones (RFC 9001, 9.5), and has no keys for late packets of the last phase.
"""

from __future__ import annotations

from collections.abc import Callable

from aioquic._crypto import AEAD, CryptoError
from aioquic.quic.crypto import (
    CryptoContext,
    CryptoPair,
    KeyUnavailableError,
    next_key_phase,
)
from aioquic.quic.packet import decode_packet_number

MAX_PACKETS_PER_KEY = 1 << 27
"""Number of packets of up to `SMALL_PACKET` bytes after which this end updates keys: half of the
limit of AES-GCM (RFC 9001, B.1)."""
SMALL_PACKET = 1 << 11
MAX_LARGE_PACKETS_PER_KEY = 1 << 22
"""The same of packets of up to 2^16 bytes."""


def packets_per_key(size: int) -> int:
    """Returns the number of packets of at most `size` bytes after which this end updates keys."""
    return MAX_PACKETS_PER_KEY if size <= SMALL_PACKET else MAX_LARGE_PACKETS_PER_KEY


class ReceiveKeys(CryptoContext):
    """Receive keys with those of the phases before and after this one."""

    first = 0
    """A packet number of this phase. Lower ones with the other key phase bit are of the last phase,
    higher ones of the next. -1 if this end has begun the phase and no packet of it has arrived."""
    _last: AEAD | None = None
    _next: CryptoContext | None = None

    def begin_phase(self) -> None:
        """Keeps the keys as those of the last phase. Call it before they are replaced."""
        self._last = self.aead
        self._next = None
        self.first = -1

    def next_keys(self) -> CryptoContext:
        """Returns the keys of the next phase, which are derived once per phase."""
        if self._next is None:
            self._next = next_key_phase(self)
        return self._next

    def decrypt_packet(
        self, packet: bytes, encrypted_offset: int, expected_packet_number: int
    ) -> tuple[bytes, bytes, int, bool]:
        if self.aead is None or self.hp is None:
            raise KeyUnavailableError("Decryption key is not available")
        header, truncated = self.hp.remove(packet, encrypted_offset)
        number = decode_packet_number(truncated, ((header[0] & 3) + 1) * 8, expected_packet_number)
        is_current = header[0] >> 2 & 1 == self.key_phase
        is_next = not is_current and 0 <= self.first < number
        aead = self.aead if is_current else self.next_keys().aead if is_next else self._last
        if aead is None:
            raise CryptoError("no keys of the last phase")
        payload = aead.decrypt(packet[len(header) :], header, number)
        if is_current and self.first < 0:
            self.first = number
        return header, payload, number, is_next


class OneRttKeys(CryptoPair):
    """The keys of both directions, with a limit on the rate at which the peer can update them."""

    recv: ReceiveKeys

    def __init__(
        self,
        theirs: CryptoPair,
        *,
        packets_sent: Callable[[], int],
        least: int,
        told_too_soon: Callable[[], None],
    ) -> None:
        """`theirs` are those of aioquic, which has not set them yet.

        The peer may update keys after `least` packets were sent with them; `told_too_soon` is
        called if it does so earlier.
        """
        super().__init__(
            recv_setup_cb=theirs.recv._setup_cb,
            recv_teardown_cb=theirs.recv._teardown_cb,
            send_setup_cb=theirs.send._setup_cb,
            send_teardown_cb=theirs.send._teardown_cb,
        )
        self.recv = ReceiveKeys(
            setup_cb=theirs.recv._setup_cb, teardown_cb=theirs.recv._teardown_cb
        )
        self._packets_sent = packets_sent
        self._least = least
        self._told_too_soon = told_too_soon
        self.first_sent = 0
        """The first packet number that was sent with these keys."""
        self._not_before = 0
        """The packet number from which on the peer may update them."""

    def update(self) -> None:
        """Updates the keys of both directions."""
        self._update_key("local_update")

    def decrypt_packet(
        self, packet: bytes, encrypted_offset: int, expected_packet_number: int
    ) -> tuple[bytes, bytes, int]:
        header, payload, number, is_next = self.recv.decrypt_packet(
            packet, encrypted_offset, expected_packet_number
        )
        if is_next:
            self._update_key("remote_update")
            self.recv.first = number
        return header, payload, number

    def _update_key(self, trigger: str) -> None:
        sent = self._packets_sent()
        if trigger == "remote_update" and sent < self._not_before:
            self._told_too_soon()
            raise CryptoError("a key update too soon after the last one")
        self.first_sent = sent
        self._not_before = sent + self._least
        self.recv.begin_phase()
        super()._update_key(trigger)
