"""`quicdist demo`."""

from __future__ import annotations


def demo() -> None:
    """Show a Python node and a real Erlang node talking over QUIC."""
