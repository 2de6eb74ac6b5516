"""How the command ends: its exit codes, and one line for whatever went wrong."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from quicdist.cli.sanitize import harmless

if TYPE_CHECKING:
    from quicdist.errors import Cause


class ExitCode(enum.IntEnum):
    """What a script can tell from the exit code. Stable: never renumbered."""

    OK = 0
    """Done, and the answer is yes."""

    NO = 1
    """The node was reached, and the answer is no: the call raised, no process has that name."""

    USAGE = 2
    """The command line cannot be understood, or a setting is missing (such as the cookie)."""

    UNREACHABLE = 3
    """No connection: nothing answers at the node's address."""

    REFUSED = 4
    """The node answers, and one of the two refuses the connection: another cookie, not allowed, a
    certificate that --trust does not vouch for."""

    LOCAL = 5
    """This machine is in the way: a port in use, a file that cannot be read, an old certificate."""

    TIMEOUT = 6
    """The node was reached, and no answer came in time."""

    BUG = 70
    """quicdist itself went wrong; QUICDIST_DEBUG=1 shows where."""

    INTERRUPTED = 130
    """Ended by Ctrl-C."""


EXIT_CODES = """Exit codes:

0: done, and the answer is yes

1: the node's answer is no (the call raised, no process has that name)

2: the command line is wrong, or a setting is missing

3: the node cannot be reached

4: the node refuses the connection (cookie), or is refused (certificate)

5: this machine is in the way (port in use, file, certificate)

6: no answer in time

70: quicdist itself went wrong

130: interrupted
"""


class Problem(Exception):
    """Ends the command with this exit code and this text on standard error, in one line."""

    def __init__(self, code: ExitCode, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return self.text

    def line(self) -> str:
        """The text in one line, without what a peer may have put in it to steer the terminal."""
        line = " ".join(part.strip() for part in str(self).splitlines())
        return harmless(line)


def problem_of(error: BaseException) -> Problem | None:
    """What an exception means for the user of the command; None: a fault of quicdist."""
    # Imported here, so that `--help` and completion do not pay for it.
    from quicdist import errors
    from quicdist.etf import EtfError

    if isinstance(error, Problem):
        return error
    if isinstance(error, (errors.CallTimeout, errors.ReceiveTimeout)):
        return Problem(ExitCode.TIMEOUT, f"{error}; --timeout gives it longer")
    if isinstance(error, (errors.CallError, errors.CallNotPossible, errors.NoProcess)):
        return Problem(ExitCode.NO, str(error).split("\n")[0])
    if isinstance(error, (errors.NodeNameError, errors.CookieError, errors.ExportError)):
        return Problem(ExitCode.USAGE, str(error))
    if isinstance(error, errors.NoConnection):
        return _by_cause(str(error), error.cause)
    if isinstance(error, errors.StartError):
        return Problem(ExitCode.LOCAL, _advised(str(error), error.cause))
    if isinstance(error, errors.NodeError):
        return Problem(ExitCode.LOCAL, str(error))
    if isinstance(error, EtfError):
        return Problem(ExitCode.USAGE, str(error))
    return _local_problem(error)


def _by_cause(text: str, cause: Cause) -> Problem:
    from quicdist.cli.advice import ADVICE

    return Problem(ADVICE[cause][0], _advised(text, cause))


def _advised(text: str, cause: Cause) -> str:
    from quicdist.cli.advice import ADVICE

    advice = ADVICE[cause][1]
    return f"{text}; {advice}" if advice else text


def _local_problem(error: BaseException) -> Problem | None:
    from quicdist.carriers.trust import CertificateError
    from quicdist.extras import MissingExtra
    from quicdist.gateway import EmitError, GatewayError

    if isinstance(error, GatewayError):
        return Problem(ExitCode.LOCAL, _advised(str(error), error.cause))
    if isinstance(error, (CertificateError, EmitError, MissingExtra)):
        return Problem(ExitCode.LOCAL, str(error))
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return Problem(ExitCode.LOCAL, f"{where}{error.strerror}")
    return None
