"""Typed functions and messages, without and with a node."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from datetime import date, timedelta
from typing import Any, assert_never, assert_type

import pytest

from quicdist import Atom, BlockingNode, CallError, Identity, Node, Pid, blocking_node, export
from quicdist.etf import Term, decode, encode
from quicdist.typed import (
    AtomText,
    Shape,
    TermError,
    Terms,
    UnsupportedType,
    Via,
    from_term,
    to_term,
    typed,
    with_terms,
)
from tests.support.waiting import PATIENCE
from tests.typed.models import Deposit, Item, Page, User, UserId, Withdraw

a = Atom
MESSAGE = Shape[Deposit | Withdraw]()


def balance_after(balance: int, message: Deposit | Withdraw) -> int:
    """The type checker verifies that all kinds of messages are handled."""
    match message:
        case Deposit(amount):
            return balance + amount
        case Withdraw(amount):
            return balance - amount
        case _:
            assert_never(message)


@export(module="bank")
@typed
def names(users: list[User], loudly: bool = False) -> list[str]:
    return [user.name.upper() if loudly else user.name for user in users]


@typed
@export(module="bank")
async def due(start: date, days: int) -> date | None:
    await asyncio.sleep(0)
    return start + timedelta(days) if days else None


@export(module="bank")
@typed
def total(currency: AtomText, *amounts: int) -> tuple[str, int]:
    return currency, sum(amounts)


@export(module="bank")
@typed
def lies() -> int:
    return "text"  # type: ignore[return-value]  # the mistake


@export(module="bank")
@typed
async def people(count: int) -> AsyncIterator[User]:
    for number in range(count):
        yield User(UserId(number), "ann")


@typed
def untyped(one, two):  # type: ignore[no-untyped-def]  # on purpose
    return one, two


def test_a_typed_function() -> None:
    ann: Term = (a("user"), 1, b"ann", a("undefined"), [])
    assert with_terms(names)([ann]) == ["ann"]
    assert with_terms(names)([ann], True) == ["ANN"]
    assert with_terms(total)(a("eur"), 1, 2, 3) == ("eur", 6)
    assert with_terms(untyped)([1], {}) == ([1], {})
    written = to_term(date(2024, 1, 2))
    assert asyncio.run(with_terms(due)(written, 30)) == to_term(date(2024, 2, 1))
    assert asyncio.run(with_terms(due)(written, 0)) == a("undefined")
    assert with_terms(names).__name__ == "names"
    with pytest.raises(UnsupportedType, match="not typed"):
        with_terms(balance_after)


def test_python_calls_it_as_if_it_were_not_typed() -> None:
    assert names([User(UserId(1), "ann")], loudly=True) == ["ANN"]
    assert asyncio.run(due(date(2024, 1, 2), 30)) == date(2024, 2, 1)
    assert_type(total("eur", 1), tuple[str, int])


WRONG: list[tuple[Any, list[Term], str]] = [
    (names, [[(a("user"), 1, 5, a("red"), [])]], "names(users)[0].name: expected a UTF-8 binary"),
    (names, [[], a("yes")], "names(loudly): expected true or false, got the atom 'yes'"),
    (total, [a("eur"), 1, b"x"], "total(amounts[1]): expected an integer, got the binary b'x'"),
    (lies, [], "lies(): expected an integer, got the text 'text'"),
]


@pytest.mark.parametrize(("function", "args", "message"), WRONG)
def test_what_does_not_fit(function: Any, args: list[Term], message: str) -> None:
    with pytest.raises(TermError) as caught:
        with_terms(function)(*args)
    assert str(caught.value).startswith(message)


def test_too_many_arguments_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        with_terms(names)([], True, 3)
    with pytest.raises(TypeError, match="positional argument"):
        with_terms(lies)(1)


def test_settings_of_ones_own() -> None:
    terms = Terms(none="nil", custom={complex: Via(tuple[float, float], lambda p: complex(*p),
                                                   lambda c: (c.real, c.imag))})  # fmt: skip

    @typed(terms=terms)
    def turn(value: complex) -> complex | None:
        return value * 1j or None

    assert with_terms(turn)((1.0, 0.0)) == (0.0, 1.0)
    assert with_terms(turn)((0.0, 0.0)) == a("nil")
    assert Shape[complex](terms).read((1.0, 2.0)) == 1 + 2j

    @typed
    def unreadable(value: complex) -> None: ...

    with pytest.raises(UnsupportedType, match="complex"):
        with_terms(unreadable)(1)


def test_editors_know_the_types() -> None:
    """The types are checked when mypy checks the tests."""
    message = MESSAGE.read((a("deposit"), 5, a("nil")))
    assert_type(message, Deposit | Withdraw)
    assert balance_after(1, message) == 6
    assert_type(from_term((a("withdraw"), 5), Withdraw), Withdraw)
    assert_type(from_term([1], list[int]), list[int])
    page = Shape[Page[User]]().read({a("items"): []})
    assert_type(page.next, User | None)
    assert page.items == []


@pytest.fixture(scope="module")
def bank() -> Iterator[BlockingNode]:
    identity = Identity.ephemeral(["127.0.0.1"])
    functions = [names, due, total, lies, people]
    with BlockingNode(
        Node("0@127.0.0.1", cookie="typed", identity=identity, exports=functions)
    ) as node:
        yield node


@pytest.mark.io
def test_typed_functions_on_a_node(bank: BlockingNode) -> None:
    with blocking_node(bank.name, cookie="typed", identity=Identity.ephemeral()) as node:
        call = functools.partial(node.call, bank.name, "bank", timeout=PATIENCE)
        users = [User(UserId(1), "ann"), User(UserId(2), "bob")]
        assert from_term(call("names", [to_term(users), True]), list[str]) == ["ANN", "BOB"]
        later = call("due", [to_term(date(2024, 1, 2)), 30])
        assert from_term(later, date | None) == date(2024, 2, 1)
        with pytest.raises(
            CallError, match=r"names\(users\)\[1\]: expected \{user, id, name"
        ) as caught:
            call("names", [[to_term(users[0]), 5]])
        assert caught.value.reason[:2] == ("python_error", "TermError")


@pytest.mark.io
def test_the_items_of_a_typed_generator_are_converted(bank: BlockingNode) -> None:
    with blocking_node(bank.name, cookie="typed", identity=Identity.ephemeral()) as node:
        items = list(node.stream(bank.name, "bank", "people", [2]))
        assert from_term(items, list[User]) == [User(UserId(number), "ann") for number in range(2)]


@pytest.mark.io
def test_typed_messages_in_a_mailbox(bank: BlockingNode) -> None:
    with (
        blocking_node(bank.name, cookie="typed", identity=Identity.ephemeral()) as node,
        bank.mailbox("account") as account,
    ):
        account_name = ("account", bank.name)
        node.send(account_name, (a("deposit"), b"much", a("nil")))
        node.send(account_name, MESSAGE.write(Deposit(5, node.pid)))
        node.send(account_name, MESSAGE.write(Withdraw(2)))
        first = MESSAGE.read(account.receive(MESSAGE.matches, timeout=PATIENCE))
        assert first == Deposit(5, node.pid)
        assert isinstance(first, Deposit)
        assert isinstance(first.to, Pid)
        second = MESSAGE.read(account.receive(MESSAGE.matches, timeout=PATIENCE))
        assert balance_after(10, second) == 8
        with pytest.raises(TermError, match="amount: expected an integer, got the binary b'much'"):
            MESSAGE.read(account.receive(timeout=PATIENCE))


def test_a_value_goes_through_the_codec_as_it_is() -> None:
    item = from_term(
        decode(encode({a("__struct__"): a("Elixir.Shop.Item"), a("title"): b"T",
                       a("price"): {a("__struct__"): a("Elixir.Decimal"), a("sign"): 1,
                                    a("coef"): 5, a("exp"): 0}, a("note"): None})),
        Item,
    )  # fmt: skip
    assert from_term(decode(encode(to_term(item))), Item) == item
