"""The OTP example of the README runs as shown, except for names and ports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from quicdist import Reference
from tests.node.conftest import COOKIE, Beam

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.erlang
async def test_it(beam: Beam, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (source,) = (block for block in blocks if "Supervisor" in block)
    for old, new in (
        ("4433@127.0.0.1", "0@127.0.0.1"),
        ("5555@127.0.0.1", beam.name),
        ("secret", COOKIE),
        ("asyncio.run(main())", ""),
    ):
        assert old in source
        source = source.replace(old, new)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(source, names)
    await names["main"]()
    first, second = capsys.readouterr().out.splitlines()
    assert first == "1"
    assert "DOWN" in second
    assert Reference.__name__ in second
