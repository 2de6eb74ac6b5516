"""What becomes of an error."""

from __future__ import annotations

import pytest

from quicdist.carriers.trust import CertificateExpired
from quicdist.cli.exits import EXIT_CODES, ExitCode, Problem, problem_of
from quicdist.gateway import GatewayError
from quicdist.node import errors


def test_a_problem_is_one_harmless_line() -> None:
    problem = Problem(ExitCode.NO, "the peer\n  said \x1b[2Jboo\x07")
    assert problem.line() == "the peer said ?[2Jboo?"


def test_every_code_is_documented() -> None:
    for code in ExitCode:
        assert f"\n{code.value}: " in EXIT_CODES


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NoConnection("4@h", "no answer"), ExitCode.UNREACHABLE),
        (errors.NoConnection("4@h", "not allowed", is_refusal=True), ExitCode.REFUSED),
        (errors.NoConnection("4@h", "another cookie"), ExitCode.REFUSED),
        (errors.NoConnection("4@h", "bad certificate"), ExitCode.REFUSED),
        (errors.CallTimeout("m:f/0 on 4@h", 1), ExitCode.TIMEOUT),
        (errors.CallError("m:f/0", errors.ErrorClass.EXIT, 1, ()), ExitCode.NO),
        (errors.NoProcess("nobody"), ExitCode.NO),
        (errors.NodeNameError("x"), ExitCode.USAGE),
        (errors.CookieError("x"), ExitCode.USAGE),
        (errors.StartError("x"), ExitCode.LOCAL),
        (CertificateExpired("x"), ExitCode.LOCAL),
        (GatewayError("x"), ExitCode.LOCAL),
        (FileNotFoundError(2, "No such file or directory", "f"), ExitCode.LOCAL),
    ],
)
def test_every_error_has_its_code(error: Exception, code: ExitCode) -> None:
    problem = problem_of(error)
    assert problem is not None
    assert problem.code is code


def test_what_nobody_expects_is_a_bug() -> None:
    assert problem_of(ZeroDivisionError()) is None
