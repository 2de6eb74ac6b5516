"""Error messages of the shell."""

from __future__ import annotations

import sys

from quicdist.cli.call import problem, show_details
from quicdist.cli.exit_codes import Problem, problem_of
from quicdist.errors import CallError


def described(error: Exception) -> Problem:
    """Returns the Problem for an error. Raises the error again if it is a bug in quicdist."""
    if isinstance(error, CallError):
        return problem(error)
    known = problem_of(error)
    if known is None:
        raise error
    return known


def show(error: Exception) -> None:
    """Prints an error to standard error."""
    print(f"** {described(error).line()}", file=sys.stderr)
    if isinstance(error, CallError):
        show_details(error)
