"""An error, for who types calls: what it was, and where on the node."""

from __future__ import annotations

import sys

from quicdist.cli.call import problem, show_details
from quicdist.cli.exit_codes import Problem, problem_of
from quicdist.errors import CallError


def described(error: Exception) -> Problem:
    """With the exit code that a script ends with. Raises the error when it is a bug of ours."""
    if isinstance(error, CallError):
        return problem(error)
    known = problem_of(error)
    if known is None:
        raise error
    return known


def show(error: Exception) -> None:
    """On standard error."""
    print(f"** {described(error).line()}", file=sys.stderr)
    if isinstance(error, CallError):
        show_details(error)
