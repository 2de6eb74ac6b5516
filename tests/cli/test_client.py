"""ping, call and send, against a Python node and against a stock Erlang."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from quicdist.gateway import PeerRules, Policy
from tests.cli.conftest import COOKIE, Command
from tests.support.erlang import Erlang
from tests.support.gatewayed import GatewayThread, gatewayed_erl, loopback_settings
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.io

# -- against a Python node ----------------------------------------------------------------------


def test_ping(quicdist: Command, calc: str) -> None:
    done = quicdist("ping", calc)
    assert (done.code, done.out, done.err) == (0, "pong\n", "")


def test_cookie_from_option_and_file(quicdist: Command, calc: str) -> None:
    cookie = quicdist.environment.pop("QUICDIST_COOKIE")
    assert quicdist("ping", calc, "--cookie", cookie).code == 0
    file = quicdist.home / ".erlang.cookie"
    file.touch(mode=0o600)
    file.write_text(cookie)
    assert quicdist("ping", calc).code == 0
    # The precedence is option, environment, file.
    file.write_text("another")
    assert quicdist("ping", calc, env={"QUICDIST_COOKIE": cookie}).code == 0
    assert quicdist("ping", calc, "--cookie", cookie, env={"QUICDIST_COOKIE": "x"}).code == 0


def test_ping_without_a_cookie(quicdist: Command, calc: str) -> None:
    del quicdist.environment["QUICDIST_COOKIE"]
    quicdist("ping", calc).refused(2, "no cookie", ".erlang.cookie")


def test_ping_with_another_cookie(quicdist: Command, calc: str) -> None:
    done = quicdist("ping", calc, "--cookie", "another", "--timeout", "3")
    assert done.out == "pang\n"
    done.refused(4, "cookie", "--cookie")


def test_ping_nobody(quicdist: Command) -> None:
    done = quicdist("ping", f"{free_port()}@127.0.0.1", "--timeout", "1")
    assert done.out == "pang\n"
    done.refused(3, "no connection to", "check that it runs")


def test_ping_somebody_else(quicdist: Command) -> None:
    """A port that does not answer with QUIC."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        name = f"{other.getsockname()[1]}@127.0.0.1"
        quicdist("ping", name, "--timeout", "1").refused(3, "no connection to")


@pytest.mark.parametrize("name", ["foo@bar", "99999@127.0.0.1"])
def test_ping_a_name_that_leads_nowhere(quicdist: Command, name: str) -> None:
    # An EPMD may run on this machine: that of other programs, or one that an `erl` has started.
    done = quicdist("ping", name, env={"ERL_EPMD_PORT": str(free_port())})
    done.refused(3, "port@ip", "no EPMD answers")
    assert "check that it runs" not in done.err


@pytest.mark.erlang
def test_a_stock_node_with_no_gateway(quicdist: Command, named_beam: tuple[str, int]) -> None:
    name, port = named_beam
    env = {"ERL_EPMD_PORT": str(port)}
    done = quicdist("ping", name, env=env)
    assert (done.code, done.out, done.err) == (0, "pong\n", "")
    done = quicdist("call", name, "erlang:node()", "--name", "py@localhost", env=env)
    assert (done.code, done.out, done.err) == (0, f"{name}\n", "")
    assert quicdist("names", env=env).out.startswith("stock ")
    done = quicdist("ping", "nobody@localhost", env=env)
    done.refused(3, f"the EPMD at localhost:{port} does not know 'nobody'")
    assert done.out == "pang\n"


def test_where_a_node_is_looked_for(quicdist: Command, calc: str) -> None:
    place = f"quic:127.0.0.1:{calc.partition('@')[0]}"
    there = ("--lookup", f"hub@site={place}")
    quicdist("ping", "hub@site", *there).refused(4, f"the peer is {calc}")
    quicdist("doctor", "hub@site", *there).refused(4, "fails at the step handshake", calc)
    assert quicdist("ping", calc, *there, "--lookup", "name").out == "pong\n"
    quicdist("ping", calc, *there).refused(3, "the table does not contain the node")
    quicdist("ping", calc, "--lookup", "epmd:1").refused(3, "no EPMD answers at 127.0.0.1:1")
    asked = quicdist("ping", calc, "--lookup", "name", "--lookup", "dns:127.0.0.1")
    assert asked.out == "pong\n"
    for wrong in ("where", "epmd:x", "hub@site=127.0.0.1:5", "hub=quic:127.0.0.1:5"):
        quicdist("ping", calc, "--lookup", wrong).refused(2, "--lookup", wrong)


@pytest.mark.parametrize("name", ["foo", "", "a@b@c", "@", "4433@"])
def test_ping_what_is_no_node(quicdist: Command, name: str) -> None:
    quicdist("ping", name).refused(2, "invalid node name", "4433@127.0.0.1")


@pytest.mark.parametrize("name", ["70000@127.0.0.1", "4433@127.0.0.256", "sam@host"])
def test_ping_what_quic_cannot_reach(quicdist: Command, name: str) -> None:
    done = quicdist("ping", name, "--timeout", "1")
    assert done.out == "pang\n"
    done.refused(3, "port@ip")


def test_own_name(quicdist: Command, calc: str) -> None:
    port = free_port()
    assert quicdist("ping", calc, "--name", f"{port}@127.0.0.1").code == 0
    quicdist("ping", calc, "--name", "me").refused(2, "invalid node name 'me'")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        name = f"{taken.getsockname()[1]}@127.0.0.1"
        quicdist("ping", calc, "--name", name).refused(5, "in use")


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (("calc", "add", "[1, 2]"), "3"),
        (("calc:add(1, 2.5).",), "3.5"),
        (("calc:add", "[1, 2]"), "3"),
        (("calc:'add'", " [1, 2]"), "3"),
        (("calc", "add", '["ab", [c]]'), "[97,98,c]"),
        (("calc", "add", '[<<"a">>, <<"ö"/utf8>>]'), '<<"aö"/utf8>>'),
        (("'calc'", "'divide'", "[1, 2]"), "0.5"),
    ],
)
def test_call(quicdist: Command, calc: str, words: tuple[str, ...], printed: str) -> None:
    done = quicdist("call", calc, *words)
    assert (done.code, done.out, done.err) == (0, printed + "\n", "")


@pytest.mark.erlang
def test_what_a_called_function_prints(quicdist: Command, beam: tuple[str, Erlang]) -> None:
    """The output of the function is not part of the result."""
    name, _ = beam
    done = quicdist("call", name, 'io:format("~p\\e[2J~namid a line", [x])')
    assert (done.code, done.out, done.err) == (0, "ok\n", "x?[2J\namid a line\n")


def test_call_what_raises(quicdist: Command, calc: str) -> None:
    quicdist("call", calc, "calc", "divide", "[1, 0]").refused(1, "ZeroDivisionError", "division")
    quicdist("call", calc, "calc", "nothing").refused(1, "undef")


def test_call_whose_value_cannot_be_sent(quicdist: Command, calc: str) -> None:
    done = quicdist("call", calc, "calc", "all_of", "[]")
    done.refused(1, "all_of/0", "returned a value that cannot be sent", "set has no Erlang form")
    assert "Traceback" in quicdist("call", calc, "calc", "all_of", "[]", "-v").err
    shown = quicdist("call", "-v", calc, "calc", "nothing")
    assert shown.code == 1
    assert "in calc:nothing()" in shown.err
    assert "in divide" in quicdist("call", "-v", calc, "calc", "divide", "[1, 0]").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("calc", "add", "[1, X]"), "column 5: expected a term"),
        (("calc", "add", "{1, 2}"), "ARGS must be a list"),
        (("calc", "add", "1", "2"), "'[1, 2]'"),
        (("calc",), "'M:F(...)'"),
        (("calc:add",), "'M:F(...)'"),
        (("calc:add:", "[1, 2]"), "invalid function 'calc:add:'"),
        (("calc:add(1, 2",), 'expected "," or ")"'),
        (("lists:seq(1,",), "invalid call 'lists:seq(1,': column 13"),
        (("", "add"), "not an atom"),
        (("calc", "add", "[<0.1>]"), "<0.94.0>"),
    ],
)
def test_call_what_cannot_be_read(
    quicdist: Command, calc: str, words: tuple[str, ...], said: str
) -> None:
    quicdist("call", calc, *words).refused(2, said)


def test_send_to_a_listener(quicdist: Command) -> None:
    with quicdist.node("listen", "0@127.0.0.1", "-r", "box", "-n", "3") as (name, process):
        assert quicdist("send", name, "box", "{hello, 1}").code == 0
        assert quicdist("send", name, "box", '#{<<"k">> => "v"}.').code == 0
        quicdist("send", name, "nobody", "hello").refused(1, "no process nobody", "nothing was")
        assert quicdist("send", name, "'box'", "last").code == 0
        out, _ = process.communicate(timeout=PATIENCE)
    assert out == '{hello,1}\n#{<<"k">> => "v"}\nlast\n'
    assert process.returncode == 0


def test_send_loses_nothing(quicdist: Command) -> None:
    with quicdist.node("listen", "0@127.0.0.1", "-n", "1") as (name, process):
        big = "<<" + "1," * 30_000 + "2>>"
        assert quicdist("send", name, "quicdist", big).code == 0
        out, _ = process.communicate(timeout=PATIENCE)
    assert out == big.replace(" ", "") + "\n"


@pytest.mark.parametrize(
    ("to", "message", "said"),
    [
        ("box", "{a", 'expected "," or "}"'),
        ("<0.1>", "a", "<0.94.0>"),
        ("<'4@1.2.3.4'.1.2>", "a", "a process of 4@1.2.3.4"),
        ("'a", "a", "closing '"),
    ],
)
def test_send_what_cannot_be_read(
    quicdist: Command, calc: str, to: str, message: str, said: str
) -> None:
    quicdist("send", calc, to, message).refused(2, said)


def test_verification_by_an_authority(quicdist: Command, calc: str) -> None:
    assert quicdist("cert", "make", "127.0.0.1", "--dir", "other").code == 0
    done = quicdist("ping", calc, "--ca", "other/cert-127.0.0.1.pem", "--timeout", "2")
    done.refused(4, "certificate", "--trust")
    quicdist("ping", calc, "--ca", "nowhere.pem").refused(5, "nowhere.pem", "No such file")
    quicdist("ping", calc, "--trust", "non").refused(5, "first-use, none, pins:FILE")
    (quicdist.home / "junk.pem").write_text("junk")
    quicdist("ping", calc, "--ca", "junk.pem").refused(5, "junk.pem", "no PEM certificate")


# -- against a stock Erlang ---------------------------------------------------------------------


@pytest.mark.erlang
def test_ping_and_call_erlang(quicdist: Command, beam: tuple[str, Erlang]) -> None:
    name, _ = beam
    assert quicdist("ping", name).out == "pong\n"
    assert quicdist("call", name, 'lists:reverse([1, {a, "b"}, #{k => <<1:3>>}])').out == (
        '[#{k => <<1:3>>},{a,"b"},1]\n'
    )
    assert quicdist("call", name, "erlang", "node").out == f"'{name}'\n"
    quicdist("call", name, "lists", "nth", "[0, [a]]").refused(1, "error: function_clause")
    quicdist("call", name, "erlang", "throw", "[{a, 1}]").refused(1, "throw: {a,1}")
    quicdist("call", name, "timer", "sleep", "[60000]", "--timeout", "1").refused(6, "within 1 s")


@pytest.mark.erlang
def test_pids_there_and_back(quicdist: Command, beam: tuple[str, Erlang]) -> None:
    name, _ = beam
    pid = quicdist("call", name, "erlang", "whereis", "[init]").out.strip()
    assert pid == "<0.0.0>"
    # The text of a pid does not contain the creation. The connection provides it.
    assert quicdist("call", name, "erlang", "is_process_alive", f"[{pid}]").out == "true\n"
    assert quicdist("call", name, f"erlang:is_process_alive({pid})").out == "true\n"
    assert quicdist("send", name, pid, "hello").code == 0
    quicdist("send", name, "<0.9999.0>", "hello").refused(1, "no process <0.9999.0>")


@pytest.mark.erlang
def test_send_to_erlang(quicdist: Command, beam: tuple[str, Erlang]) -> None:
    name, erlang = beam
    erlang.eval(
        """
        register(cli_box, spawn(fun() -> receive M -> unregister(cli_box),
            register(cli_got, self()), receive {ask, From} -> From ! {got, M} end end end)), [].
        """
    )
    assert quicdist("send", name, "cli_box", "{hello, [1, 2]}").code == 0
    deadline = time.monotonic() + PATIENCE
    source = """
        case whereis(cli_got) of
            undefined -> <<"nothing">>;
            Pid -> Pid ! {ask, self()}, receive {got, {hello, [1, 2]}} -> <<"it">> end
        end.
    """
    while (answer := erlang.eval(source)) == b"nothing":
        assert time.monotonic() < deadline
    assert answer == b"it"


@pytest.mark.erlang
def test_another_cookie_than_erlang(quicdist: Command, beam: tuple[str, Erlang]) -> None:
    name, _ = beam
    done = quicdist("ping", name, "--cookie", "another", "--timeout", "2")
    assert done.out == "pang\n"
    done.refused(4, "cookie")


@pytest.mark.erlang
def test_erlang_calls_what_run_serves(
    quicdist: Command, calc: str, beam: tuple[str, Erlang], tmp_path: Path
) -> None:
    _, erlang = beam
    answer = erlang.eval(f"""
        4 = erpc:call('{calc}', calc, add, [1, 3]),
        3 = rpc:call('{calc}', calc, add, [1, 2]),
        term_to_binary(net_adm:ping('{calc}')).
    """)
    assert answer.endswith(b"pong")


def test_doctor_says_where_the_way_ends(quicdist: Command, calc: str) -> None:
    well = quicdist("doctor", calc)
    assert well.code == 0
    steps = ["name", "port", "tls", "certificate", "handshake", "cookie", "tick", "path"]
    assert [line.split()[0] for line in well.out.splitlines()] == steps
    assert all(line.split()[1] == "ok" for line in well.out.splitlines())
    ill = quicdist("doctor", calc, env={"QUICDIST_COOKIE": "other"})
    ill.refused(4, "fails at the step cookie", "--cookie")
    assert ill.out.splitlines()[-1].split() == ["cookie", "no"]
    quicdist("doctor", "nobody").refused(2, "fails at the step name")
    quicdist("doctor", f"{free_port()}@127.0.0.1").refused(3, "fails at the step port")


@pytest.mark.erlang
def test_a_call_that_a_gateways_policy_refuses(
    quicdist: Command, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Policy((PeerRules(nodes=("*",), calls=("erlang:node",)),))
    settings = replace(loopback_settings(), policy=policy)
    with GatewayThread(settings) as gateway, gatewayed_erl(gateway, cookie=COOKIE):
        name = gateway.name
        assert quicdist("call", name, "erlang:node()").out == f"'{name}'\n"
        caplog.clear()
        quicdist("call", name, 'os:cmd("id")').refused(
            1, "os:cmd/1 on", "refused by the node: notsup"
        )
        refusals = [one for one in caplog.messages if "refused: " in one]
        assert len(refusals) == 1, "what is refused is not tried by another way"
        assert "a call of os:cmd" in refusals[0]
