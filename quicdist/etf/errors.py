"""The root of all exceptions, and what fails between terms and bytes, with the place.

The root is defined here because `quicdist.etf` imports nothing else of the package;
`quicdist.errors` exports it.
"""

from __future__ import annotations

_PLAIN = (str, bytes, int, float, type(None))


class QuicdistError(Exception):
    """Base of every exception that quicdist raises on purpose.

    All can be pickled and copied, whatever their constructors take. The copy has the same class,
    text, attributes and notes. It has the same `__cause__` where that is one of ours or a built-in
    exception of plain values; another library's exception might not be picklable.
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
    """The exception without its constructor, which may take other arguments than `args`."""
    error = kind.__new__(kind, *args)
    error.args = args
    if cause is not None:
        error.__cause__ = cause
    return error


class EtfError(QuicdistError):
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
