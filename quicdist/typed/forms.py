"""The Erlang forms of a class with fields: record, map, struct, keyword list, proplist, tuple.

A form is used as a class decorator, or in `Annotated[...]` to override the form of a class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from quicdist.etf import Atom, NativeRecord, Term
from quicdist.etf.errors import QuicdistError
from quicdist.typed.containers import keyword_pairs
from quicdist.typed.conversion import Conversion
from quicdist.typed.errors import TermError, alias, describe

_C = TypeVar("_C", bound=type)
FORM = "__erlang_form__"
"""The attribute of a class that contains its form."""

_STRUCT = Atom("__struct__")
_EXCEPTION = Atom("__exception__")


class Missing(QuicdistError):
    """The field has no default."""


def _no_default() -> Any:
    raise Missing


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a class."""

    name: str
    """The name in Python."""
    key: str
    """The name in the term, for forms with names."""
    conversion: Conversion
    required: bool
    """Whether a term must have it."""
    default: Callable[[], Any] = _no_default
    """Returns the default. Raises Missing if there is none."""


class Fields:
    """The fields of one class."""

    def __init__(self, owner: type, fields: Sequence[Field]) -> None:
        self.owner = owner
        self.all = tuple(fields)
        self.is_exception = issubclass(owner, BaseException)
        self.by_atom = {Atom(one.key): one for one in fields}
        self.by_binary = {one.key.encode(): one for one in fields}
        if len(self.by_atom) < len(self.all):
            raise ValueError(f"two fields of {owner.__qualname__} have the same key")


@dataclass(frozen=True)
class Form:
    """The layout of the fields of a class in a term."""

    none: ClassVar[Literal["nil", "undefined"] | None] = None
    """The atom for None inside this form. None uses the atom of the enclosing form."""

    def __call__(self, owner: _C, /) -> _C:
        setattr(owner, FORM, self)
        return owner

    def expects(self, fields: Fields) -> str:
        """The expected term, for error texts."""
        raise NotImplementedError

    def take(self, fields: Fields, term: Term) -> dict[str, Term]:
        """The terms of the present fields by Python name. Raises TermError if one does not fit."""
        raise NotImplementedError

    def put(self, fields: Fields, terms: dict[str, Term]) -> Term:
        """Creates the term from the terms of the fields."""
        raise NotImplementedError

    def claims(self, fields: Fields, term: Term) -> bool:
        """Whether the term has the tag of this form, even if it is otherwise invalid."""
        raise NotImplementedError

    def leaves_out(self, one: Field, value: Any) -> bool:
        """Whether a field with this value is omitted."""
        return False


@dataclass(frozen=True)
class Tuple(Form):
    """A tuple of the fields in order. This is the default form of a NamedTuple."""

    def expects(self, fields: Fields) -> str:
        return f"a tuple of {len(fields.all)}"

    def take(self, fields: Fields, term: Term) -> dict[str, Term]:
        if not isinstance(term, tuple) or len(term) != len(fields.all):
            raise TermError.expected(self.expects(fields), term)
        return {one.name: inner for one, inner in zip(fields.all, term, strict=True)}

    def put(self, fields: Fields, terms: dict[str, Term]) -> Term:
        return tuple(terms[one.name] for one in fields.all)

    def claims(self, fields: Fields, term: Term) -> bool:
        return isinstance(term, tuple) and len(term) == len(fields.all)


@dataclass(frozen=True)
class Record(Form):
    """An Erlang record, or any tuple that begins with an atom: `{user, 1, <<"Ann">>}`.

        @Record("user")
        @dataclass
        class User: ...

    None is written as `undefined`, as in Erlang records.
    """

    tag: str

    none = "undefined"

    def expects(self, fields: Fields) -> str:
        return "{" + ", ".join((self.tag, *(one.name for one in fields.all))) + "}"

    def take(self, fields: Fields, term: Term) -> dict[str, Term]:
        if not self.claims(fields, term) or len(term) != len(fields.all) + 1:
            raise TermError.expected(self.expects(fields), term)
        return {one.name: inner for one, inner in zip(fields.all, term[1:], strict=True)}

    def put(self, fields: Fields, terms: dict[str, Term]) -> Term:
        return (Atom(self.tag), *(terms[one.name] for one in fields.all))

    def claims(self, fields: Fields, term: Term) -> bool:
        return (
            isinstance(term, tuple)
            and len(term) > 0
            and type(term[0]) is Atom
            and term[0] == self.tag
        )


@dataclass(frozen=True)
class Native(Form):
    """A native record of OTP 29 and later: `@Native("shop", "order")` is `#shop:order{...}`.

    Fields are matched by name, in any order.
    """

    module: str
    name: str
    extra: Literal["forbid", "ignore"] = "forbid"
    """How unknown fields are handled: as an error, or ignored."""

    none = "undefined"

    def expects(self, fields: Fields) -> str:
        return f"a #{self.module}:{self.name}{{}}"

    def take(self, fields: Fields, term: Term) -> dict[str, Term]:
        if not isinstance(term, NativeRecord) or not self.claims(fields, term):
            raise TermError.expected(self.expects(fields), term)
        pairs = zip(term.names, term.values, strict=True)
        return take_keys(fields, pairs, keys="atom", extra=self.extra)

    def put(self, fields: Fields, terms: dict[str, Term]) -> Term:
        present = [one for one in fields.all if one.name in terms]
        names = tuple(Atom(one.key) for one in present)
        values = tuple(terms[one.name] for one in present)
        return NativeRecord(Atom(self.module), Atom(self.name), names, values)

    def claims(self, fields: Fields, term: Term) -> bool:
        return (
            isinstance(term, NativeRecord) and term.module == self.module and term.name == self.name
        )


@dataclass(frozen=True)
class Map(Form):
    """A map with the names of the fields as keys.

    This is the default form of dataclasses and TypedDicts.
    """

    keys: Literal["atom", "binary"] = "atom"
    extra: Literal["forbid", "ignore"] = "forbid"
    """How keys that are not fields are handled: as an error, or ignored."""
    omit_defaults: bool = False
    """Whether fields that equal their default are omitted."""

    def expects(self, fields: Fields) -> str:
        return f"a map with {', '.join(one.key for one in fields.all if one.required)}"

    def take(self, fields: Fields, term: Term) -> dict[str, Term]:
        if not isinstance(term, Mapping):
            raise TermError.expected(self.expects(fields), term)
        return take_keys(fields, term.items(), keys=self.keys, extra=self.extra)

    def put(self, fields: Fields, terms: dict[str, Term]) -> Term:
        written = [(one.key, terms[one.name]) for one in fields.all if one.name in terms]
        if self.keys == "atom":
            return {Atom(key): term for key, term in written}
        return {key.encode(): term for key, term in written}

    def claims(self, fields: Fields, term: Term) -> bool:
        return isinstance(term, Mapping) and _STRUCT not in term

    def leaves_out(self, one: Field, value: Any) -> bool:
        return self.omit_defaults and is_default(one, value)


@dataclass(frozen=True)
class Struct(Form):
    """An Elixir struct: `@Struct("Shop.Order")` is `%Shop.Order{}`.

    None is written as `nil`. A Python exception class becomes an Elixir exception.
    """

    module: str
    """The module in Elixir notation, or with a leading colon (`":shop"`) in Erlang notation."""
    extra: Literal["forbid", "ignore"] = "forbid"

    none = "nil"

    @property
    def atom(self) -> Atom:
        """The module as an atom."""
        if self.module.startswith(":"):
            return Atom(self.module[1:])
        return Atom(f"Elixir.{self.module.removeprefix('Elixir.')}")

    def expects(self, fields: Fields) -> str:
        return f"a %{alias(self.atom)}{{}}"

    def take(self, fields: Fields, term: Term) -> dict[str, Term]:
        if not self.claims(fields, term):
            raise TermError.expected(self.expects(fields), term)
        marks = {_STRUCT, _EXCEPTION} if fields.is_exception else {_STRUCT}
        if fields.is_exception and term.get(_EXCEPTION) is not True:
            raise TermError(f"expected an exception, got {describe(term)} that is not one")
        inner = ((key, value) for key, value in term.items() if key not in marks)
        return take_keys(fields, inner, keys="atom", extra=self.extra)

    def put(self, fields: Fields, terms: dict[str, Term]) -> Term:
        result: dict[Term, Term] = {_STRUCT: self.atom}
        if fields.is_exception:
            result[_EXCEPTION] = True
        result.update({Atom(one.key): terms[one.name] for one in fields.all if one.name in terms})
        return result

    def claims(self, fields: Fields, term: Term) -> bool:
        return isinstance(term, Mapping) and term.get(_STRUCT) == self.atom


@dataclass(frozen=True)
class Keyword(Form):
    """An Elixir keyword list: `[name: "x", limit: 5]`.

    It also applies to a dict: `Annotated[dict[Atom, int], Keyword()]`. Duplicate keys are an error.
    Use `list[tuple[Atom, int]]` if they have a meaning.
    """

    extra: Literal["forbid", "ignore"] = "forbid"
    omit_defaults: bool = True

    none: ClassVar[Literal["nil", "undefined"] | None] = "nil"
    is_proplist: ClassVar[bool] = False

    def expects(self, fields: Fields) -> str:
        return "a proplist" if self.is_proplist else "a keyword list"

    def take(self, fields: Fields, term: Term) -> dict[str, Term]:
        pairs = keyword_pairs(term, is_proplist=self.is_proplist)
        return take_keys(fields, pairs, keys="atom", extra=self.extra)

    def put(self, fields: Fields, terms: dict[str, Term]) -> Term:
        return [(Atom(one.key), terms[one.name]) for one in fields.all if one.name in terms]

    def claims(self, fields: Fields, term: Term) -> bool:
        return isinstance(term, list)

    def leaves_out(self, one: Field, value: Any) -> bool:
        return self.omit_defaults and is_default(one, value)


@dataclass(frozen=True)
class Proplist(Keyword):
    """An Erlang property list: `[verbose, {limit, 5}]`. It also applies to a dict.

    A single atom means true, and the first of several equal keys is used, as in `proplists`.
    """

    none = "undefined"
    is_proplist = True


def take_keys(
    fields: Fields, pairs: Any, *, keys: Literal["atom", "binary"], extra: str
) -> dict[str, Term]:
    """The terms of fields from keys and values. Raises TermError if a key is not a field."""
    found: dict[str, Term] = {}
    for key, value in pairs:
        one: Field | None = None
        if keys == "atom":
            if type(key) is Atom:
                one = fields.by_atom.get(key)
        elif type(key) is bytes or type(key) is str:
            one = fields.by_binary.get(key if isinstance(key, bytes) else key.encode())
        if one is not None:
            found[one.name] = value
        elif extra == "forbid":
            names = ", ".join(field.key for field in fields.all)
            raise TermError(f"{describe(key)} is not one of the {keys} keys {names}")
    return found


def is_default(one: Field, value: Any) -> bool:
    """Whether the value is the default of the field."""
    try:
        default = one.default()
    except Missing:
        return False
    return type(value) is type(default) and bool(value == default)


@dataclass
class Fielded(Conversion):
    """Converts a class with fields in one form."""

    fields: Fields
    form: Form
    make: Callable[..., Any]
    """Creates a value from the present fields, passed by name."""
    is_dict: bool = False
    """Whether the class is a TypedDict, whose values are dicts and may lack fields."""
    expects: str = field(init=False)

    def __post_init__(self) -> None:
        self.expects = self.form.expects(self.fields)
        self.classes = (dict,) if self.is_dict else (self.fields.owner,)

    def read(self, term: Term) -> Any:
        terms = self.form.take(self.fields, term)
        values = {}
        for one in self.fields.all:
            if one.name in terms:
                try:
                    values[one.name] = one.conversion.read(terms[one.name])
                except TermError as error:
                    error.within(f".{one.name}")
                    raise
            elif one.required:
                raise TermError(f"{one.key} is missing from {describe(term)}")
        try:
            return self.make(**values)
        except TermError:
            raise
        except (ValueError, TypeError) as error:
            raise TermError(f"{self.fields.owner.__qualname__} rejects it: {error}") from error

    def write(self, value: Any) -> Term:
        terms = {}
        for one, inner in self._present(value):
            if self.form.leaves_out(one, inner):
                continue
            try:
                terms[one.name] = one.conversion.write(inner)
            except TermError as error:
                error.within(f".{one.name}")
                raise
        return self.form.put(self.fields, terms)

    def claims(self, term: Term) -> bool:
        return self.form.claims(self.fields, term)

    def _present(self, value: Any) -> list[tuple[Field, Any]]:
        owner = self.fields.owner
        if not self.is_dict:
            # A subclass may have additional fields, which would be lost.
            if type(value) is not owner:
                raise TermError.expected(owner.__qualname__, value)
            return [(one, getattr(value, one.name)) for one in self.fields.all]
        if not isinstance(value, dict):
            raise TermError.expected(f"a dict as {owner.__qualname__}", value)
        names = {one.name for one in self.fields.all}
        for name in value:
            if name not in names:
                raise TermError(f"{describe(name)} is not a key of {owner.__qualname__}")
        for one in self.fields.all:
            if one.required and one.name not in value:
                raise TermError(f"{one.name} is missing from the {owner.__qualname__}")
        return [(one, value[one.name]) for one in self.fields.all if one.name in value]
