"""The exit code is 5 for every option and argument that names an unusable file.

The file does not exist, cannot be read, or has invalid content.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from quicdist.cli import app
from quicdist.cli.exit_codes import ExitCode
from tests.cli.conftest import Command

NODE = "5@127.0.0.1"

ARGUMENTS = {
    "ping": [NODE],
    "bench": [NODE],
    "doctor": [NODE],
    "call": [NODE, "m", "f"],
    "send": [NODE, "name", "hello"],
    "disconnect": [NODE, NODE],
    "listen": ["0@127.0.0.1"],
    "run": ["0@127.0.0.1", "tests.node.exported"],
    "shell": [NODE],
    "top": [NODE],
    "exports": [NODE],
    "gateway": [NODE],
    "relay": ["127.0.0.1:0"],
    "cert show": [],
    "cert revoke": [],
}

CREATED = {
    *("--key-log", "--qlog", "--module-dir", "--dir", "--out", "--known-nodes", "--port-file"),
}
"""Options for files and directories that the command makes, which therefore need not exist."""

_RUN = """
import json, sys
from quicdist.cli import app
from quicdist.cli.exit_codes import problem_of

def code_of(arguments):
    try:
        return app(arguments, standalone_mode=False) or 0
    except BaseException as error:
        problem = problem_of(error)
        return problem.code if problem is not None else repr(error)

print(json.dumps([code_of(one) for one in json.load(sys.stdin)]))
"""


def commands(command: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the commands below `command` by their words."""
    if not hasattr(command, "commands"):
        return {" ".join(path): command}
    found = {}
    for name, one in command.commands.items():
        found.update(commands(one, (*path, name)))
    return found


def _files() -> list[tuple[str, str]]:
    """Returns the commands and their options and arguments for files that must exist."""
    return [
        (words, parameter.opts[-1] if parameter.param_type_name == "option" else "FILE")
        for words, command in commands(typer.main.get_command(app)).items()
        for parameter in command.params
        if parameter.metavar in ("FILE", "HOW") and parameter.opts[-1] not in CREATED
    ]


def _given(option: str, file: str, identity: Path) -> list[str]:
    """Returns the words that give the file, and others that this option requires."""
    certificate, key = str(identity / "cert-127.0.0.1.pem"), str(identity / "key.pem")
    match option:
        case "FILE":
            return [file]
        case "--key":
            return ["--cert", certificate, "--key", file]
        case "--key-passphrase-file":
            return ["--cert", certificate, "--key", key, option, file]
        case "--crl":
            return ["--ca", certificate, option, file]
        case _:
            return [option, file]


def _unusable(file: Path) -> Path:
    """Makes a file of the kind that is its name: missing, directory, loop or garbage."""
    match file.name:
        case "directory":
            file.mkdir()
        case "loop":
            file.symlink_to(file)
        case "garbage":
            file.write_bytes(b"\xff\xfe= [[")
    return file


def test_every_option_for_files_is_known() -> None:
    commands = {words for words, _ in _files()}
    assert commands == set(ARGUMENTS)
    assert len(_files()) > 60


@pytest.mark.io
@pytest.mark.parametrize("kind", ["missing", "directory", "loop", "garbage"])
def test_a_file_that_cannot_be_used_is_exit_code_5(
    quicdist: Command, kind: str, tmp_path: Path
) -> None:
    assert quicdist("cert", "make", "127.0.0.1", "--dir", str(tmp_path)).code == 0
    file = _unusable(tmp_path / kind)
    asked = {}
    for words, option in _files():
        others = [*words.split(), *ARGUMENTS[words]]
        for value in (str(file), f"pins:{file}") if option == "--ca" else (str(file),):
            given = _given(option, value, tmp_path)
            asked[f"{words} {option} {value}"] = [*others, *given]
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        input=json.dumps(list(asked.values())),
        env=quicdist.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    codes = dict(zip(asked, json.loads(done.stdout.splitlines()[-1]), strict=True))
    assert {which: code for which, code in codes.items() if code != ExitCode.LOCAL} == {}


@pytest.mark.io
@pytest.mark.parametrize("kind", ["directory", "loop", "garbage"])
def test_the_known_nodes_of_a_machine(quicdist: Command, kind: str, tmp_path: Path) -> None:
    file = _unusable(tmp_path / kind)
    before = file.read_bytes() if kind == "garbage" else b""
    for words in (["accept", NODE, "0" * 64], ["forget", NODE]):
        quicdist("cert", *words, "--known-nodes", str(file)).refused(ExitCode.LOCAL, str(file))
    assert kind != "garbage" or file.read_bytes() == before


@pytest.mark.io
@pytest.mark.parametrize(
    ("module", "code"),
    [("missing.py", ExitCode.LOCAL), ("wrong.py", ExitCode.LOCAL), ("missing", ExitCode.USAGE)],
)
def test_the_module_of_run(quicdist: Command, module: str, code: ExitCode, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("def")
    path = str(tmp_path / module) if module.endswith(".py") else module
    quicdist("run", "0@127.0.0.1", path).refused(code, module)
