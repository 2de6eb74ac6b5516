"""Types that the tests convert. Annotations are strings, as in most programs."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from decimal import Decimal
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Required,
    TypedDict,
    TypeVar,
)

from quicdist.etf import Atom, Pid
from quicdist.typed import (
    AtomText,
    Charlist,
    Key,
    Keyword,
    Map,
    Nil,
    Proplist,
    Record,
    Struct,
    Tuple,
    Via,
)

T = TypeVar("T")
UserId = NewType("UserId", int)


class Color(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Size(str, enum.Enum):  # noqa: UP042  # the form before StrEnum
    BIG = "big"


class Kind(enum.Enum):
    TEXT = b"text"
    YES = True


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@Record("user")
@dataclass(frozen=True)
class User:
    id: UserId
    name: str
    color: Color | None = None
    tags: list[AtomText] = field(default_factory=list)


@Struct("Shop.Item")
@dataclass(slots=True)
class Item:
    title: str
    price: Decimal
    note: str | None = None


@Struct("Shop.Order")
@dataclass
class Order:
    number: int
    items: list[Item]
    buyer: User


@dataclass
class Point:
    x: float
    y: float
    label: str = ""


@dataclass
class Point3(Point):
    z: float = 0.0


@Map(keys="binary", extra="ignore", omit_defaults=True)
@dataclass
class Json:
    user_name: Annotated[str, Key("userName")]
    age: int | None = None
    more: list[int] = field(default_factory=list)


@Keyword()
@dataclass
class Options:
    timeout: int = 5000
    name: Atom | None = None


@Proplist(extra="ignore")
@dataclass
class Switches:
    verbose: bool = False
    limit: int = 0


@Tuple()
@dataclass
class Pair(Generic[T]):
    left: T
    right: T


@dataclass
class Page(Generic[T]):
    items: list[T]
    next: T | None = None


@dataclass
class UserPage(Page[User]):
    total: int = 0


@Record("node")
@dataclass
class Tree:
    value: int
    left: Tree | None = None
    right: Tree | None = None


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Review(TypedDict, total=False):
    stars: Required[Literal[1, 2, 3]]
    text: Annotated[str, Key("reviewText")]


class Place(NamedTuple):
    street: str
    number: int = 1


@Struct("Shop.NotFound")
@dataclass
class NotFound(Exception):
    message: str
    id: int


@dataclass
class Even:
    n: int

    def __post_init__(self) -> None:
        if self.n % 2:
            raise ValueError(f"{self.n} is odd")


@Record("deposit")
@dataclass
class Deposit:
    amount: int
    to: Pid | None = None


@Record("withdraw")
@dataclass
class Withdraw:
    amount: int


@dataclass
class Mixed:
    chars: Charlist
    nil: int | Nil
    extra: Any
    hexed: Annotated[int, Via(str, lambda text: int(text, 16), hex)]
