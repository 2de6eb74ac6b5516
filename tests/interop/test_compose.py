"""docker-compose.yml: accepted, and in step with the command line and the harness."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import typer.main

from interop.__main__ import _parser
from interop.carriers import all_carriers
from quicdist.cli import app
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
FOREIGN = ("quic_dist", "erlang_quic", "macula_dist")


def services() -> dict[str, str]:
    """The text of each service."""
    _, _, text = FILE.read_text().partition("\nservices:\n")
    parts = re.split(r"^  (\w+):\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def command(service: str) -> list[str]:
    found = re.search(r"^    command: (\[.*\])$", services()[service], re.MULTILINE)
    assert found, f"{service} has no command in one line"
    words: list[str] = json.loads(found[1])
    return words


def compose() -> list[str] | None:
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker"):
        probe = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if probe.returncode == 0:
            return ["docker", "compose"]
    return None


@pytest.mark.io
@pytest.mark.parametrize("profile", ["", "ask", "interop", *FOREIGN])
def test_compose_accepts_it(profile: str) -> None:
    program = compose()
    if program is None:
        pytest.skip("no docker-compose here: sudo apt-get install docker-compose")
    words = ["--profile", profile] if profile else []
    run = subprocess.run(
        [*program, "-f", str(FILE), *words, "config", "--services"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr
    wanted = {"python", "erlang", "gateway", *([profile] if profile else [])}
    assert wanted <= set(run.stdout.split())


@pytest.mark.parametrize("service", ["python", "gateway", "ask"])
def test_the_command_line_takes_what_services_say(service: str) -> None:
    program, subcommand, *args = command(service)
    assert program == "quicdist"
    group = typer.main.get_command(app)
    known = group.commands[subcommand]  # type: ignore[attr-defined]  # a group has commands
    known.make_context(subcommand, args)


@pytest.mark.io
@pytest.mark.parametrize("key", FOREIGN)
def test_each_real_carrier_has_a_profile_that_mounts_its_folder(key: str) -> None:
    text = services()[key]
    variable = f"QUICDIST_PEER_{key.upper()}"
    (carrier,) = [one for one in all_carriers({}) if one.key == key]
    assert variable in carrier.absent
    assert f'profiles: ["{key}"]' in text
    assert f"{variable}: /peers/{key}\n" in text
    assert f"source: ${{{variable}:-./interop/peers/{key}}}" in text
    assert f"target: /peers/{key}\n" in text
    assert _parser().parse_args(command(key)).carrier == [key]


def test_what_is_mounted_and_built_from_is_there() -> None:
    text = FILE.read_text()
    for source in re.findall(r"source: (\./[^$\s]+)", text):
        assert (ROOT / source).is_file(), source
    (dockerfile,) = set(re.findall(r"dockerfile: (\S+)", text))
    stages = set(re.findall(r" AS (\w+)$", (ROOT / dockerfile).read_text(), re.MULTILINE))
    assert stages == set(re.findall(r"target: (\w+)$", text, re.MULTILINE))


@pytest.fixture
def cluster() -> dict[str, list[str]]:
    """The commands of the services, with this machine in place of the cluster's."""
    ports = {"4433": str(free_port()), "5555": str(free_port())}
    mounted = {
        target: str(ROOT / source)
        for source, target in re.findall(r"source: (\./\S+)\n\s+target: (\S+)", FILE.read_text())
    }
    changes = {
        "python.cluster": "127.0.0.1",
        "erlang.cluster": "127.0.0.1",
        "0.0.0.0": "127.0.0.1",
        **{f"{old}@": f"{new}@" for old, new in ports.items()},
        **{f":{old}": f":{new}" for old, new in ports.items()},
        **mounted,
        "interop/docker": str(ROOT / "interop" / "docker"),
    }

    def changed(word: str) -> str:
        pattern = "|".join(map(re.escape, changes))
        return re.sub(pattern, lambda found: changes[found[0]], word)

    commands: dict[str, list[str]] = {}
    for service in ("python", "erlang", "gateway", "ask"):
        words = list(map(changed, command(service)))
        if words[0] == "quicdist":
            words[:1] = [sys.executable, "-c", "from quicdist.cli import main; main()"]
        commands[service] = words
    return commands


@pytest.mark.erlang
def test_the_services_talk_to_each_other(cluster: dict[str, list[str]], tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "QUICDIST_COOKIE": "cluster",
        "QUICDIST_STATE_DIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    with ExitStack() as stack:
        for service in ("python", "erlang", "gateway"):
            log = stack.enter_context((tmp_path / f"{service}.log").open("wb"))
            process = subprocess.Popen(
                cluster[service], env=environment, cwd=tmp_path, stdout=log, stderr=log
            )
            stack.callback(process.wait)
            stack.callback(process.kill)

        def ask() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                cluster["ask"], env=environment, capture_output=True, text=True, check=False
            )

        deadline = time.monotonic() + PATIENCE
        while (asked := ask()).returncode != 0 and time.monotonic() < deadline:
            pass
        logs = {path.name: path.read_text() for path in tmp_path.glob("*.log")}
        assert (asked.returncode, asked.stdout) == (0, "3\n"), (asked.stderr, logs)
