"""How the command ends: its exit codes, and one line for whatever went wrong."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from quicdist.cli.sanitize import harmless

if TYPE_CHECKING:
    from quicdist.errors import NoConnection


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
        super().__init__(text)
        self.code = code

    def line(self) -> str:
        """The text in one line, without what a peer may have put in it to steer the terminal."""
        line = " ".join(part.strip() for part in str(self).splitlines())
        return harmless(line)


def problem_of(error: BaseException) -> Problem | None:
    """What an exception of the floors below means for whoever typed the command; None: a bug."""
    # Imported here, so that `--help` and completion do not pay for it.
    from quicdist import errors
    from quicdist.etf import EtfError

    if isinstance(error, Problem):
        return error
    if isinstance(error, errors.NoConnection):
        return _no_connection(error)
    if isinstance(error, (errors.CallTimeout, errors.ReceiveTimeout)):
        return Problem(ExitCode.TIMEOUT, f"{error}; --timeout gives it longer")
    if isinstance(error, (errors.CallError, errors.CallNotPossible, errors.NoProcess)):
        return Problem(ExitCode.NO, str(error).split("\n")[0])
    if isinstance(error, (errors.NodeNameError, errors.CookieError, errors.ExportError)):
        return Problem(ExitCode.USAGE, str(error))
    if isinstance(error, errors.NodeError):
        return Problem(ExitCode.LOCAL, _with_advice(str(error)))
    if isinstance(error, EtfError):
        return Problem(ExitCode.USAGE, str(error))
    return _local_problem(error)


def _no_connection(error: NoConnection) -> Problem:
    text = str(error)
    if "cookie" in text:
        text += "; give the cluster's with --cookie or QUICDIST_COOKIE"
        return Problem(ExitCode.REFUSED, text)
    if "certificate" in text:
        if "cert accept" not in text:
            text += "; --trust says who is believed, --cert what we show"
        return Problem(ExitCode.REFUSED, text)
    if error.is_refusal:
        return Problem(ExitCode.REFUSED, text)
    if "EPMD" in text or "broke the protocol" in text:
        return Problem(ExitCode.UNREACHABLE, text)  # whether it runs is not the question
    if "Address family" in text:
        text += "; --name needs an address of the same kind, IPv4 or IPv6"
        return Problem(ExitCode.UNREACHABLE, text)
    return Problem(ExitCode.UNREACHABLE, f"{text}; does it run, and is its address in its name?")


def _local_problem(error: BaseException) -> Problem | None:
    from quicdist.carriers.trust import CertificateError
    from quicdist.extras import MissingExtra
    from quicdist.gateway import EmitError, GatewayError

    if isinstance(error, (CertificateError, GatewayError, EmitError, MissingExtra)):
        return Problem(ExitCode.LOCAL, _with_advice(str(error)))
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return Problem(ExitCode.LOCAL, f"{where}{error.strerror}")
    return None


def _with_advice(text: str) -> str:
    if "already in use" in text:
        return f"{text}; choose another port, or 0 for a free one"
    if "Cannot assign requested address" in text:
        return f"{text}; that address is not this machine's: --listen says where to bind instead"
    return text
