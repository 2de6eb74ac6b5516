"""What goes wrong between terms and bytes: one exception each way, both with the place."""

from __future__ import annotations


class EtfError(Exception):
    """A term could not be read or written."""


class EtfDecodeError(EtfError):
    """The bytes are no external term, or one beyond the limits.

    - `offset`: index in the given bytes where reading stopped (in a compressed term: in what it
      decompresses to).
    - `reason`: one line, without the offset.
    """

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(offset, reason)
        self.offset = offset
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason} (at byte {self.offset})"


class EtfEncodeError(EtfError):
    """The object, or one inside it, has no Erlang form, or the whole is beyond the limits.

    - `path`: how to get from the given object to the culprit, as `[3]["key"]`; "" is itself.
    - `reason`: one line, without the path.
    - `limit`: the bound that the whole is beyond, a field of `Limits` or `SessionLimits`; None for
      any other error.
    - `subject`: what the object is, such as an argument of a function; None where nobody said.
    """

    def __init__(
        self, path: str, reason: str, limit: str | None = None, subject: str | None = None
    ) -> None:
        super().__init__(path, reason, limit, subject)
        self.path = path
        self.reason = reason
        self.limit = limit
        self.subject = subject

    def about(self, prefix: str, subject: str) -> EtfEncodeError:
        """The same error of a part of the object, which lies at the path `prefix`."""
        return EtfEncodeError(self.path.removeprefix(prefix), self.reason, self.limit, subject)

    def __str__(self) -> str:
        text = f"{self.reason} (at {self.path})" if self.path else self.reason
        return text if self.subject is None else f"{self.subject}: {text}"
