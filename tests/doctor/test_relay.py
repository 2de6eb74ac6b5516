"""`quicdist doctor` of a relay."""

from __future__ import annotations

from pathlib import Path

import pytest

from quicdist.carriers.relay.server import Relay
from quicdist.carriers.trust import Credentials, Identity, Trust
from quicdist.doctor import Settings, Step, examine

HOST = "127.0.0.1"


@pytest.mark.io
async def test_a_relay_is_recognized_and_tells_what_it_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # without a cookie
    identity = Identity.kept([HOST], tmp_path)
    credentials = Credentials(identity, Trust.first_use(tmp_path / "known"))
    async with Relay(
        HOST, 0, credentials=credentials, ports=range(23000, 23010), port_file=None
    ) as relay:
        settings = Settings(
            identity=Identity.ephemeral([HOST]), trust=Trust.nothing(), timeout=10.0
        )
        found = [one async for one in examine(relay.name, settings)]
        assert [one.step for one in found] == [
            Step.NAME,
            Step.PORT,
            Step.TLS,
            Step.CERTIFICATE,
            Step.RELAY,
        ]
        assert "quicdist-relay/1" in found[2].text
        assert f"sees {HOST} port" in found[4].text
        assert relay.stats().ports_open == 0
