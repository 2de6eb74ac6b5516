"""The base class of all exceptions, and the exceptions of encoding and decoding.

The base class is defined here because `quicdist.etf` imports no other part of the package.
`quicdist.errors` exports it.
"""

from __future__ import annotations

_PLAIN = (str, bytes, int, float, type(None))


class QuicdistError(Exception):
    """Base class of the exceptions of quicdist.

    All of them can be pickled and copied. The copy has the same class, text, attributes and notes.
    It has the same `__cause__` if that is an exception of quicdist or a built-in exception with
    plain values. Exceptions of other libraries are omitted, because they may not be picklable.
    """

    def __reduce__(self) -> tuple[object, ...]:
        cause = _portable(self.__cause__)
        return _restore, (type(self), self.args, cause), dict(self.__dict__)


def _portable(cause: BaseException | None) -> BaseException | None:
    if isinstance(cause, QuicdistError):
        return cause
    if cause is None or type(cause).__module__ != "builtins":
        return None
    return cause if all(isinstance(arg, _PLAIN) for arg in cause.args) else None


def _restore(
    kind: type[QuicdistError], args: tuple[object, ...], cause: BaseException | None
) -> QuicdistError:
    """Recreates an exception without its constructor, whose arguments may differ from `args`."""
    error = kind.__new__(kind, *args)
    error.args = args
    if cause is not None:
        error.__cause__ = cause
    return error


class EtfError(QuicdistError):
    """Base class of the exceptions of encoding, decoding and term notation."""


class EtfDecodeError(EtfError):
    """The bytes are not a valid external term, or the term exceeds the limits.

    - `offset`: the index of the error in the input, or in the decompressed data of a compressed
      term.
    - `reason`: one line of text without the offset.
    """

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(offset, reason)
        self.offset = offset
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason} (at byte {self.offset})"


class EtfEncodeError(EtfError):
    """The object or a part of it has no Erlang form, or the term exceeds the limits.

    - `path`: the path from the object to the invalid part, such as `[3]["key"]`, or an empty
      string for the object itself.
    - `reason`: one line of text without the path.
    - `limit`: the exceeded limit, a field of `Limits` or `SessionLimits`, or None for any other
      error.
    - `subject`: a description of the object, such as an argument of a function, or None.
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
        """Returns the error with a subject and with `prefix` at the start of the path."""
        return EtfEncodeError(self.path.removeprefix(prefix), self.reason, self.limit, subject)

    def __str__(self) -> str:
        text = f"{self.reason} (at {self.path})" if self.path else self.reason
        return text if self.subject is None else f"{self.subject}: {text}"
