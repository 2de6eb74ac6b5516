"""What one QUIC connection may make us keep and do, whatever its peer sends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """Of each QUIC connection. Where a peer exceeds one, that connection is closed, and the
    endpoint counts it by the `RejectReason` that has the bound's name."""

    max_tls_message: int = 64 * 1024
    """Bytes of a TLS message that is not complete, and of the CRYPTO data that came ahead of a
    gap. A chain of eight certificates is a quarter of this."""

    max_client_hello: int = 16 * 1024
    """The same for Initial packets, which anybody can send from any address."""

    max_tls_items: int = 1024
    """Integers, lengths and byte strings in one TLS message. A browser's ClientHello has about
    200."""

    max_tls_messages: int = 64
    """TLS messages of a connection, over its whole life. A handshake with client certificates
    takes eight; the rest is for session tickets, which are ignored."""

    max_transport_parameters: int = 1024
    """Bytes of the peer's transport parameters (RFC 9000, 18)."""

    max_tls_ranges: int = 32
    """Ranges of CRYPTO data beyond a gap, for each encryption level."""

    max_stream_ranges: int = 1024
    """Ranges of a stream's data beyond a gap. At a window of 32 MiB, a third of which is lost in
    datagrams of 16,000 bytes, there are 700."""

    max_stream_ranges_unproved: int = 32
    """The same before the peer has shown that it has the cookie."""

    max_data_unproved: int = 128 * 1024
    """Bytes of all streams that who dials us may send, in order or not, before it has shown that
    it has the cookie. After that it is the window of its dialect."""

    max_ack_ranges: int = 256
    """Ranges of one ACK frame. aioquic sends 64 at most."""

    max_frames: int = 64
    """Frames of one packet, by weight: STREAM and CRYPTO frames count as two, ACK frames as four
    and their ranges as a quarter each, PATH_CHALLENGE frames as eight."""

    bytes_per_frame: int = 8
    """Once the peer has shown that it has the cookie, a packet may hold one frame more for so many
    of its bytes."""

    max_frames_unproved: int = 640
    """Frames of a connection, by weight and in all, before the peer has shown that it has the
    cookie. A handshake takes 50 to 150."""

    max_packets_per_datagram: int = 8
    """Packets coalesced in one datagram (RFC 9000, 12.2). A datagram with more is discarded: it is
    not authenticated as a whole, so the connection goes on."""

    min_packets_per_key: int = 16
    """Packets that we send between two key updates of the peer (RFC 9001, 6.2, asks for one): new
    keys cost as much as ten packets."""
