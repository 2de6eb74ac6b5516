"""Congestion control and pacing (RFC 9002), as objects without I/O and clock."""
