"""Every exception of the package: one tree, a copy and a pickle of each, texts of bounded size."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

import quicdist
from quicdist import errors
from quicdist.carriers.base import CertificateRejected, DialError
from quicdist.carriers.quic.connection import AttemptFailed, Failure
from quicdist.carriers.relay.server import RelayError
from quicdist.carriers.trust import Alert, PeerRefused
from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cluster.lookup import NotFound
from quicdist.cluster.relays import NoRelay
from quicdist.doctor import Step, Stopped, Trouble
from quicdist.errors import Cause, ErrorClass, QuicdistError
from quicdist.etf import Atom, EtfDecodeError, EtfEncodeError, Pid
from quicdist.etf.notation import NotationError
from quicdist.extras import MissingExtra
from quicdist.gateway import GatewayError
from quicdist.otp.gen_server import InitError, Stop
from quicdist.protocol.errors import HandshakeRefused, WrongCookie
from quicdist.typed.elixir import ElixirException
from quicdist.typed.errors import TermError

MOST_TEXT = 120_000
"""Characters of the longest text: fifty frames of a stack trace, each of 2,000 characters."""

HUGE = [Atom("a" * 200)] * 5_000
"""A reason that a peer may send."""

NATIVE = "quicdist.carriers.quic.engine.native"
"""Cannot be imported if the native engine is not installed."""

NO_PID = Pid(Atom("a@b"), 1, 2, 3)

MAKERS: dict[type[BaseException], Callable[[], BaseException]] = {
    errors.StartError: lambda: errors.StartError("x", Cause.ADDRESS_IN_USE),
    errors.NoConnection: lambda: errors.NoConnection("a@b", "gone", Cause.COOKIE),
    errors.ProcessExited: lambda: errors.ProcessExited(NO_PID, HUGE),
    errors.CallError: lambda: errors.CallError("m:f/0", ErrorClass.ERROR, HUGE, [HUGE] * 60),
    errors.CallNotPossible: lambda: errors.CallNotPossible("m:f/0", HUGE),
    errors.SpawnError: lambda: errors.SpawnError("m:f/0", HUGE),
    errors.CallTimeout: lambda: errors.CallTimeout("m:f/0", 1.5),
    errors.ErlangError: lambda: errors.ErlangError(HUGE),
    errors.ErlangExit: lambda: errors.ErlangExit(HUGE),
    errors.ErlangThrow: lambda: errors.ErlangThrow(HUGE),
    EtfDecodeError: lambda: EtfDecodeError(7, "no term"),
    EtfEncodeError: lambda: EtfEncodeError("[3]", "no term", "depth", "argument 1"),
    NotationError: lambda: NotationError("{" * 1_000_000, 3, "a term"),
    TermError: lambda: TermError.expected("int", HUGE).within("[3]").within(".price"),
    ElixirException: lambda: ElixirException("Elixir.A", {"message": "x" * 1_000_000}),
    DialError: lambda: DialError("x", Cause.NO_ANSWER),
    CertificateRejected: lambda: CertificateRejected("x", Cause.CERTIFICATE_OURS),
    AttemptFailed: lambda: AttemptFailed(Failure("x", Cause.ALPN, may_retry=False)),
    PeerRefused: lambda: PeerRefused("x", Alert.UNKNOWN_CA, Cause.BINDING),
    HandshakeRefused: lambda: HandshakeRefused(
        "x", Cause.NOT_ALLOWED, status="not_allowed", answer=b"snot_allowed"
    ),
    WrongCookie: lambda: WrongCookie("x"),
    NoRelay: lambda: NoRelay("x", Cause.NO_ANSWER),
    RelayError: lambda: RelayError("x", Cause.ADDRESS_IN_USE),
    NotFound: lambda: NotFound("x", Cause.NOT_IN_EPMD),
    GatewayError: lambda: GatewayError("x", Cause.ADDRESS_IN_USE),
    MissingExtra: lambda: MissingExtra("this", "that", "dns"),
    InitError: lambda: InitError("a server", HUGE),
    Stop: lambda: Stop(HUGE),
    Stopped: lambda: Stopped(Step.TLS, Trouble.REFUSED, "x", "do y", Cause.ALPN),
    Problem: lambda: Problem(ExitCode.NO, "x"),
}
"""Exceptions whose constructors take more than a text."""


def _exceptions() -> Iterator[type[BaseException]]:
    for module in pkgutil.walk_packages(quicdist.__path__, "quicdist."):
        if module.name.endswith("__main__"):
            continue
        if module.name == NATIVE and importlib.util.find_spec("quicdist_engine") is None:
            continue
        try:
            found = importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("quicdist"):
                raise
            continue  # what only some programs need, such as prometheus-client
        classes = (kind for kind in vars(found).values() if inspect.isclass(kind))
        own = (kind for kind in classes if kind.__module__ == module.name)
        yield from (kind for kind in own if issubclass(kind, BaseException))


ALL = sorted(set(_exceptions()), key=lambda kind: (kind.__module__, kind.__name__))
PUBLIC = [kind for kind in ALL if not kind.__name__.startswith("_")]


def _make(kind: type[BaseException]) -> BaseException:
    error = MAKERS.get(kind, lambda: kind("some text"))()
    assert type(error) is kind
    error.add_note("a note")
    return error


def _attributes(error: BaseException) -> dict[str, object]:
    return {**vars(error), "name": getattr(error, "name", None), "args": error.args}


def _assert_same(error: BaseException, other: BaseException) -> None:
    assert type(other) is type(error)
    assert str(other) == str(error)
    mine, others = _attributes(error), _attributes(other)
    assert others.keys() == mine.keys()
    for key, value in mine.items():
        assert others[key] == value, key
    assert getattr(other, "cause", None) is getattr(error, "cause", None)


def test_there_are_some() -> None:
    assert len(PUBLIC) > 40
    assert set(MAKERS) <= set(ALL)


@pytest.mark.parametrize("kind", [kind for kind in PUBLIC if not issubclass(kind, Problem)])
def test_every_exception_is_of_one_tree(kind: type[BaseException]) -> None:
    assert issubclass(kind, QuicdistError)


@pytest.mark.parametrize("kind", PUBLIC)
def test_every_exception_can_be_pickled_and_copied(kind: type[BaseException]) -> None:
    error = _make(kind)
    _assert_same(error, copy.copy(error))
    _assert_same(error, copy.deepcopy(error))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        _assert_same(error, pickle.loads(pickle.dumps(error, protocol)))


@pytest.mark.parametrize("kind", PUBLIC)
def test_no_text_has_the_size_of_what_came(kind: type[BaseException]) -> None:
    error = _make(kind)
    assert len(str(error)) <= MOST_TEXT
    assert len(repr(error)) <= 2 * MOST_TEXT


def test_a_cause_goes_with_it_where_it_can() -> None:
    error = DialError("x", Cause.PORT_CLOSED)
    error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    restored = pickle.loads(pickle.dumps(error))
    assert isinstance(restored.__cause__, ConnectionRefusedError)
    assert restored.__cause__.errno == 111


def test_a_cause_that_may_not_be_picklable_is_left_behind() -> None:
    class Foreign(Exception):
        """Defined in a function: pickle cannot find it."""

    error = DialError("x", Cause.PORT_CLOSED)
    error.__cause__ = Foreign()
    assert pickle.loads(pickle.dumps(error)).__cause__ is None


def _raise_no_connection() -> None:
    raise errors.NoConnection("a@b", "gone", Cause.NO_ANSWER)


@pytest.mark.io
def test_an_exception_in_a_worker_leaves_the_pool_alive() -> None:
    with ProcessPoolExecutor(1) as pool:
        for _ in range(2):
            with pytest.raises(errors.NoConnection, match="gone") as caught:
                pool.submit(_raise_no_connection).result()
            assert caught.value.cause is Cause.NO_ANSWER


def test_every_cause_has_a_meaning_and_a_name_of_its_own() -> None:
    source = inspect.getsource(Cause)
    for cause in Cause:
        assert cause.value == cause.name.lower()
        assert f'{cause.name} = "{cause.value}"\n    """' in source
