"""Exit codes and advice depend on the cause of a failure, not on words in names and texts."""

from __future__ import annotations

import pytest

from quicdist.cli.advice import ADVICE
from quicdist.cli.exit_codes import ExitCode, problem_of
from quicdist.cluster.relays import NoRelay
from quicdist.doctor.diagnosis import DIAGNOSES, stopped
from quicdist.doctor.findings import Trouble
from quicdist.errors import Cause, NoConnection, StartError
from tests.cli.conftest import Command
from tests.support.ports import free_port

MISLEADING = "a cookie, a certificate, EPMD, Address family, already in use, broke the protocol"

_CODES = {
    Trouble.NAME: ExitCode.USAGE,
    Trouble.UNREACHABLE: ExitCode.UNREACHABLE,
    Trouble.REFUSED: ExitCode.REFUSED,
    Trouble.SILENT: ExitCode.TIMEOUT,
}


def test_every_cause_has_an_exit_code_and_advice_of_its_own() -> None:
    assert set(ADVICE) == set(Cause)


@pytest.mark.parametrize("cause", list(Cause))
def test_no_text_decides(cause: Cause) -> None:
    for node in ("cookies@h", "certificate@h", "EPMD@h", "rabbit@h"):
        problem = problem_of(NoConnection(node, MISLEADING, cause))
        plain = problem_of(NoConnection("a@h", "x", cause))
        assert problem is not None
        assert plain is not None
        assert problem.code is plain.code is ADVICE[cause][0]
        advice = str(plain).removeprefix("no connection to a@h: x")
        assert str(problem) == f"no connection to {node}: {MISLEADING}{advice}"


@pytest.mark.parametrize("cause", list(Cause))
def test_a_refusal_exits_as_one(cause: Cause) -> None:
    assert (ADVICE[cause][0] is ExitCode.REFUSED) == cause.is_refusal


@pytest.mark.parametrize("cause", [one for one in DIAGNOSES if one.is_refusal])
def test_the_doctor_calls_a_refusal_one(cause: Cause) -> None:
    end = stopped(cause, MISLEADING)
    assert end.cause is cause
    assert _CODES[end.trouble] is ADVICE[cause][0]


def test_a_node_that_cannot_start_is_told_what_to_do() -> None:
    problem = problem_of(StartError("x", Cause.ADDRESS_IN_USE))
    assert problem is not None
    assert problem.code is ExitCode.LOCAL
    assert "choose another port" in str(problem)
    assert "choose another port" not in str(problem_of(StartError(MISLEADING, Cause.SETTING)))


@pytest.mark.io
@pytest.mark.parametrize("name", ["cookies", "certificate", "EPMD", "rabbit"])
def test_ping_where_nothing_is(quicdist: Command, name: str) -> None:
    env = {"ERL_EPMD_PORT": str(free_port())}
    done = quicdist("ping", f"{name}@127.0.0.1", env=env)
    assert done.out == "pang\n"
    done.refused(ExitCode.UNREACHABLE, "no EPMD answers", "check that a node runs on that host")
    assert "--cookie" not in done.err
    assert "--trust" not in done.err


@pytest.mark.io
def test_ping_a_closed_port_is_answered_long_before_the_time_is_over(quicdist: Command) -> None:
    done = quicdist("ping", f"{free_port()}@127.0.0.1", "--timeout", "3600")
    assert done.out == "pang\n"
    done.refused(ExitCode.UNREACHABLE, "refused", "check that it runs")


@pytest.mark.io
def test_ping_with_another_cookie(quicdist: Command, calc: str) -> None:
    done = quicdist("ping", calc, "--cookie", "another", "--timeout", "60")
    done.refused(ExitCode.REFUSED, "--cookie")


@pytest.mark.io
def test_ping_a_node_that_is_not_trusted(quicdist: Command, calc: str) -> None:
    pins = quicdist.home / "pins"
    pins.write_text(f"{calc} sha256:{'1' * 64}\n")
    done = quicdist("ping", calc, "--trust", f"pins:{pins}", "--timeout", "60")
    done.refused(ExitCode.REFUSED)
    assert "--cookie" not in done.err


@pytest.mark.io
def test_ping_under_a_name_whose_port_is_in_use(quicdist: Command, calc: str) -> None:
    done = quicdist("ping", calc, "--name", calc)
    done.refused(ExitCode.LOCAL, "choose another port")


@pytest.mark.parametrize("cause", [Cause.NO_ANSWER, Cause.NOT_ALLOWED, Cause.CERTIFICATE_THEIRS])
def test_a_node_without_its_relay_exits_as_one_that_cannot_reach_a_peer(cause: Cause) -> None:
    error = StartError("x", cause)
    error.__cause__ = NoRelay("x", cause)
    problem = problem_of(error)
    assert problem is not None
    assert problem.code is ADVICE[cause][0]
    assert ("quicdist doctor" in str(problem)) != cause.is_refusal
