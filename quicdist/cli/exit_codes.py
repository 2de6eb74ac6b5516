"""The exit codes of the command, and one-line error messages."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from quicdist.cli.sanitize import sanitized

if TYPE_CHECKING:
    from quicdist.errors import Cause


class ExitCode(enum.IntEnum):
    """The exit codes. They are stable and never renumbered."""

    OK = 0
    """Success."""

    NO = 1
    """The node was reached and the result is negative: the call raised, no process has the name."""

    USAGE = 2
    """The command line is invalid, or a setting is missing (such as the cookie). A file that it
    names is not part of it: see LOCAL."""

    UNREACHABLE = 3
    """No connection: the node's address does not answer."""

    REFUSED = 4
    """The node answers, and one of the two rejects the connection: the cookies differ, the node is
    not permitted, or a certificate is not trusted."""

    LOCAL = 5
    """A local problem: a port in use, an expired certificate, or a file that does not exist, cannot
    be read or written, or has invalid content, for every option and argument that names one."""

    TIMEOUT = 6
    """The node was reached and did not answer in time."""

    BUG = 70
    """A bug in quicdist. QUICDIST_DEBUG=1 shows the traceback."""

    INTERRUPTED = 130
    """Interrupted by Ctrl-C."""


EXIT_CODES = """Exit codes:

0: success

1: the result is negative (the call raised, no process has that name)

2: the command line is invalid, or a setting is missing

3: the node cannot be reached

4: the node rejects the connection (cookie), or is rejected (certificate)

5: a local problem (port in use, certificate, missing or invalid file)

6: no answer in time

70: a bug in quicdist

130: interrupted
"""


class Problem(Exception):
    """Ends the command with an exit code and a one-line text on standard error."""

    def __init__(self, code: ExitCode, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return self.text

    def line(self) -> str:
        """Returns the text in one line, without control characters that a peer may have sent."""
        line = " ".join(part.strip() for part in str(self).splitlines())
        return sanitized(line)


def problem_of(error: BaseException) -> Problem | None:
    """Returns the Problem that describes an exception, or None for a bug in quicdist."""
    # Imported here to keep `--help` and completion fast.
    from quicdist import errors
    from quicdist.etf import EtfError

    if isinstance(error, Problem):
        return error
    if isinstance(error, (errors.CallTimeout, errors.ReceiveTimeout)):
        return Problem(ExitCode.TIMEOUT, f"{error}; --timeout sets the limit")
    if isinstance(error, (errors.CallError, errors.CallNotPossible, errors.NoProcess)):
        return Problem(ExitCode.NO, str(error).split("\n")[0])
    if isinstance(error, errors.CookieFileError):
        return Problem(ExitCode.LOCAL, str(error))
    if isinstance(error, (errors.NodeNameError, errors.CookieError, errors.ExportError)):
        return Problem(ExitCode.USAGE, str(error))
    if isinstance(error, errors.NoConnection):
        return _by_cause(str(error), error.cause)
    if isinstance(error, errors.StartError):
        return _of_start(error, error.cause)
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


def _of_start(error: Exception, cause: Cause) -> Problem:
    """A failure to start is local, unless a relay is the reason."""
    from quicdist.cli.advice import ADVICE
    from quicdist.cluster.relays import NoRelay

    if not isinstance(error.__cause__, NoRelay):
        return Problem(ExitCode.LOCAL, _advised(str(error), cause))
    if cause.is_refusal:
        return Problem(ADVICE[cause][0], str(error))
    text = f"{error}; `quicdist doctor PORT@HOST` of the relay examines the way to it"
    return Problem(ADVICE[cause][0], text)


def _local_problem(error: BaseException) -> Problem | None:
    from quicdist.carriers.relay.allocation import PortFileError
    from quicdist.carriers.relay.server import RelayError
    from quicdist.carriers.trust import CertificateError
    from quicdist.extras import MissingExtra
    from quicdist.gateway import EmitError, GatewayError

    if isinstance(error, (GatewayError, RelayError)):
        return _of_start(error, error.cause)
    if isinstance(error, (CertificateError, EmitError, MissingExtra, PortFileError)):
        return Problem(ExitCode.LOCAL, str(error))
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return Problem(ExitCode.LOCAL, f"{where}{error.strerror}")
    return None
