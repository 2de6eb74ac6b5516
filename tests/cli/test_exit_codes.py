"""Exit codes of errors."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from quicdist import errors
from quicdist.carriers.trust import CertificateExpired
from quicdist.cli.exit_codes import EXIT_CODES, ExitCode, Problem, problem_of
from quicdist.cli.sanitize import SanitizingFormatter, sanitized_term
from quicdist.etf import Atom
from quicdist.etf.notation import format_term, parse_term
from quicdist.gateway import GatewayError


def test_a_problem_is_one_harmless_line() -> None:
    problem = Problem(ExitCode.NO, "the peer\n  said \x1b[2Jboo\x07")
    assert problem.line() == "the peer said ?[2Jboo?"


def test_a_log_line_is_harmless_and_looks_like_no_other() -> None:
    record = logging.LogRecord(
        "n", logging.INFO, "f", 1, "said %s", ("\x1b[2J\nINFO x\u202e",), None
    )
    assert SanitizingFormatter("%(levelname)s %(message)s").format(record) == (
        "INFO said ?[2J\n    INFO x?"
    )


def test_a_term_is_shown_harmlessly_and_reads_back() -> None:
    term = [Atom("a\u202eb\x9b"), "x\u2066".encode(), {Atom("\x1b"): b"\x07"}]
    text = sanitized_term(format_term(term))
    assert text.isprintable()
    assert parse_term(text) == term


@pytest.mark.io
def test_output_may_be_closed() -> None:
    """A closed standard output, as by `>&-` in a shell, is not an internal error."""
    command = [sys.executable, "-m", "quicdist", "--version"]
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], capture_output=True)
    assert (closed.returncode, closed.stderr) == (0, b"")


def test_every_code_is_documented() -> None:
    for code in ExitCode:
        assert f"\n{code.value}: " in EXIT_CODES


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NoConnection("4@h", "cookie", errors.Cause.NO_ANSWER), ExitCode.UNREACHABLE),
        (errors.NoConnection("4@h", "x", errors.Cause.NOT_ALLOWED), ExitCode.REFUSED),
        (errors.NoConnection("4@h", "x", errors.Cause.COOKIE), ExitCode.REFUSED),
        (errors.NoConnection("4@h", "x", errors.Cause.CERTIFICATE_THEIRS), ExitCode.REFUSED),
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
