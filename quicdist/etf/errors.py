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
    - `limit`: the field of `Limits` that the whole is beyond; None for any other error.
    """

    def __init__(self, path: str, reason: str, limit: str | None = None) -> None:
        super().__init__(path, reason, limit)
        self.path = path
        self.reason = reason
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.reason} (at {self.path})" if self.path else self.reason
