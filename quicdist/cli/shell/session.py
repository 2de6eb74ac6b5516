"""Collects typed lines into calls, and runs them on a node."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from quicdist.cli.call import called, unaliased
from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.remote_output import RemoteOutput
from quicdist.cli.sanitize import sanitized_term
from quicdist.etf.notation import NotationError, format_term, parse_call

if TYPE_CHECKING:
    from quicdist.node.node import Node

_NOTHING = re.compile(r"(\s*(%.*)?\n?)*\Z")
_ENDED = re.compile(r"\.\s*(%.*)?\Z")


class Session:
    """The calls of a shell on one node."""

    def __init__(self, node: Node, peer: str, timeout: float | None, printed: RemoteOutput) -> None:
        """`timeout` is the limit in seconds for each answer, or None.

        `printed` receives the output of the called functions; it is set on the node as well.
        """
        self.node = node
        self.peer = peer
        self.printed = printed
        self._timeout = timeout
        self._typed = ""

    @property
    def is_amid_a_call(self) -> bool:
        """Whether the lines so far are the beginning of a call."""
        return bool(self._typed)

    def forget(self) -> None:
        """Discards the lines typed so far."""
        self._typed = ""

    def take(self, line: str) -> str | None:
        """Adds a line. Returns the complete call, or None. Raises Problem if it is invalid."""
        text = f"{self._typed}{line}\n"
        self._typed = ""
        if _NOTHING.match(text):
            return None
        meant = unaliased(text)
        try:
            parse_call(meant, node=self.peer)
        except NotationError as error:
            if error.position >= len(meant.rstrip()) and not _ENDED.search(meant.rstrip()):
                self._typed = text
                return None
            raise Problem(ExitCode.USAGE, f"{error}; expected M:F(Arguments)") from None
        return text

    async def evaluate(self, call: str) -> str:
        """Runs a call and returns its result in Erlang notation. Raises what Node.call raises."""
        await self.node.connect(self.peer)
        # The text of a pid does not contain the creation; the connection does.
        creation = self.node.peer(self.peer).creation
        wanted = parse_call(unaliased(call), node=self.peer, creation=creation)
        try:
            value = await called(self.node, self.peer, wanted, self._timeout)
        finally:
            self.printed.end_line()
        return sanitized_term(format_term(value, node=self.peer))
