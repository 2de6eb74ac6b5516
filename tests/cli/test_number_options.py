"""The exit code is 2 for every option for a number that is negative, infinite or not a number."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from quicdist.cli import app
from quicdist.cli.exit_codes import ExitCode
from tests.cli.test_file_options import ARGUMENTS, commands

RATES = ("--messages-per-second", "--calls-per-second")

OPTIONS = [
    (words, parameter.opts[0])
    for words, command in commands(typer.main.get_command(app)).items()
    for parameter in command.params
    if parameter.metavar in ("SECONDS", "MIB") or parameter.opts[0] in RATES
]


def test_the_options_are_found() -> None:
    assert ("ping", "--timeout") in OPTIONS
    assert ("run", "--drain") in OPTIONS
    assert ("relay", "--rate") in OPTIONS
    assert ("gateway", "--calls-per-second") in OPTIONS


@pytest.mark.parametrize(("command", "option"), OPTIONS)
@pytest.mark.parametrize("value", ["inf", "nan", "-1", "1e30", "five"])
def test_a_number_that_makes_no_sense(command: str, option: str, value: str) -> None:
    arguments = ARGUMENTS.get(command, ["x@h"])
    result = CliRunner().invoke(app, [*command.split(), *arguments, option, value])
    assert result.exit_code == ExitCode.USAGE, result.output
