"""`quicdist doctor` of a node that a relay names."""

from __future__ import annotations

from pathlib import Path

import pytest

import quicdist.doctor
from quicdist import Node
from quicdist.carriers.trust import Identity, Trust
from quicdist.doctor import Settings, Step, examine
from tests.support.relayed import HOST, relay, via
from tests.support.waiting import PATIENCE


@pytest.mark.io
@pytest.mark.parametrize(
    ("path", "text"), [("auto", "a direct path to it was found"), ("relay-only", "no direct path")]
)
async def test_the_path_to_a_node_at_a_relay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, text: str
) -> None:
    monkeypatch.setenv("QUICDIST_STATE_DIR", str(tmp_path / "state"))
    if path == "relay-only":  # the search takes its whole time
        monkeypatch.setattr(quicdist.doctor, "_SEARCH", 0.2)
    settings = Settings(
        cookie="c", identity=Identity.ephemeral([HOST]), trust=Trust.nothing(), timeout=PATIENCE
    )
    async with relay(tmp_path) as at, Node(via=via(at), cookie="c", path=path) as node:
        found = [one async for one in examine(node.name, settings)]
    assert [one.step for one in found[-3:]] == [Step.TICK, Step.DIRECT, Step.PATH]
    assert text in found[-2].text
