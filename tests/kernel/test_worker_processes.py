"""What passes between a node and its worker processes."""

from __future__ import annotations

import pickle

from quicdist.etf import Atom
from quicdist.kernel.worker_processes import _pickled


def test_views_arrive_as_bytes() -> None:
    given = (Atom("tensor"), [memoryview(b"data").toreadonly()], {b"k": memoryview(b"")})
    back = pickle.loads(_pickled(given))
    assert back == (Atom("tensor"), [b"data"], {b"k": b""})
    assert type(back[1][0]) is bytes
