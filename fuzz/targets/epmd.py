"""Fuzz target for the EPMD protocol: requests in pieces and whole answers."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.targets.pieces import join, split
from quicdist.carriers import epmd

ANSWERS = (epmd.decode_registered, epmd.decode_found, epmd.decode_names)


def check(data: bytes) -> None:
    """Choice byte: 0 sends requests to a server, other values select an answer to parse."""
    choice, pieces = split(data)
    try:
        if choice % 4:
            ANSWERS[choice % 4 - 1](b"".join(pieces))
            return
        reader = epmd.RequestReader()
        for piece in pieces:
            for request in reader.feed(piece):
                again = epmd.encode_request(request)
                assert epmd.RequestReader().feed(again) == [request]
    except epmd.EpmdError:
        pass


def seeds() -> Iterator[bytes]:
    """Yields one request or answer of each kind."""
    node = epmd.NodeInfo("5555", 40000, extra=b"more")
    requests: list[epmd.Request] = [
        epmd.Register(node),
        epmd.LookUp("5555@127.0.0.1"),
        epmd.ListNames(),
        epmd.Dump(),
        epmd.Kill(),
        epmd.Stop("5555"),
    ]
    for request in requests:
        yield join(0, [epmd.encode_request(request)])
    whole = b"".join(map(epmd.encode_request, requests))
    yield join(0, [whole[:7], whole[7:]])
    yield join(1, [epmd.encode_registered(5, extended=True)])
    yield join(1, [epmd.encode_registered(None, extended=False)])
    yield join(2, [epmd.encode_found(node)])
    yield join(2, [epmd.encode_found(None)])
    yield join(3, [epmd.encode_names(4369, [node, node])])
