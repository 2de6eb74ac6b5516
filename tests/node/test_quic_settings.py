"""What `Quic` refuses."""

from __future__ import annotations

import pytest

from quicdist import Quic
from quicdist.errors import NodeError


@pytest.mark.parametrize("name", ["bbr", "cubic", "reno"])
def test_congestion_control_is_chosen_by_name(name: str) -> None:
    assert Quic(congestion=name).congestion == name


def test_an_unknown_congestion_control_is_refused() -> None:
    expected = "invalid congestion control 'vegas': expected one of bbr, cubic, reno"
    with pytest.raises(NodeError, match=expected):
        Quic(congestion="vegas")
