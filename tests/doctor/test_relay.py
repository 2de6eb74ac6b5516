"""`quicdist doctor` of a relay."""

from __future__ import annotations

from pathlib import Path

import pytest

from quicdist.carriers.trust import Identity, Trust
from quicdist.doctor import Settings, Step, examine
from tests.support.relayed import HOST, relay
from tests.support.waiting import PATIENCE


@pytest.mark.io
async def test_a_relay_is_recognized_and_tells_what_it_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # without a cookie
    async with relay(tmp_path) as one:
        settings = Settings(
            identity=Identity.ephemeral([HOST]), trust=Trust.nothing(), timeout=PATIENCE
        )
        found = [one async for one in examine(one.name, settings)]
        assert [one.step for one in found] == [
            Step.NAME,
            Step.PORT,
            Step.TLS,
            Step.CERTIFICATE,
            Step.RELAY,
            Step.PATH,
        ]
        assert "quicdist-relay/1" in found[2].text
        assert f"{one.name} sees {HOST}:" in found[5].text
        assert found[5].text.endswith("no NAT in between")
        assert one.stats().ports_open == 0
