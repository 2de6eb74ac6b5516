"""Old public names work for one release, and say which name is new."""

from __future__ import annotations

import pytest

from quicdist.gateway import GatewayStatistics
from quicdist.runtime.counters import Traffic


def test_dialled_is_dialed() -> None:
    stats = GatewayStatistics("1@127.0.0.1", 0.0, True, (), 0, 7, 1, {}, {}, 0, Traffic())
    with pytest.warns(DeprecationWarning, match="is now dialed"):
        assert stats.dialled == stats.dialed == 7
