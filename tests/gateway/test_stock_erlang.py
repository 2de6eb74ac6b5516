"""Stock Erlang nodes connect over QUIC, each behind a gateway."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from quicdist import Identity, Trust
from tests.support.erlang import Erlang
from tests.support.gatewayed import (
    GatewayProcess,
    GatewayThread,
    gatewayed_erl,
    loopback_settings,
    two_gatewayed_nodes,
)
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, wait_settled

pytestmark = pytest.mark.erlang


@dataclass(frozen=True)
class Pair:
    """Two nodes that are not connected yet."""

    one: Erlang
    two: Erlang
    one_name: str
    two_name: str


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with two_gatewayed_nodes() as ((gateway_one, one), (gateway_two, two)):
        yield Pair(one, two, gateway_one.name, gateway_two.name)


def show(source: str) -> str:
    """Returns Erlang source that prints the value on one line."""
    return f'io_lib:format("~0tp", [begin {source} end]).'


def ask(erlang: Erlang, source: str, data: bytes = b"") -> str:
    return erlang.eval(show(source), data).decode()


def until(erlang: Erlang, source: str, wanted: str) -> None:
    """Repeats the query until the answer is as expected."""
    deadline = time.monotonic() + PATIENCE
    while (answer := ask(erlang, source)) != wanted:
        assert time.monotonic() < deadline, f"{source}: {answer}"
        time.sleep(0.05)


def test_ping_both_ways_and_nodes(pair: Pair) -> None:
    assert ask(pair.one, f"net_adm:ping('{pair.two_name}')") == "pong"
    assert ask(pair.two, f"net_adm:ping('{pair.one_name}')") == "pong"
    until(pair.two, "nodes()", f"['{pair.one_name}']")
    assert ask(pair.one, "net_adm:names()").startswith('{ok,[{"' + pair.one_name.partition("@")[0])
    # OTP chooses the creation itself: the gateway's EPMD answers 1 to every node.
    assert int(ask(pair.one, "erlang:system_info(creation)")) > 3


def test_rpc_and_erpc(pair: Pair) -> None:
    assert ask(pair.one, f"rpc:call('{pair.two_name}', erlang, node, [])") == f"'{pair.two_name}'"
    assert ask(pair.two, f"erpc:call('{pair.one_name}', lists, sum, [[1,2,3]])") == "6"
    failed = ask(pair.one, f"catch erpc:call('{pair.two_name}', erlang, error, [oops])")
    assert "oops" in failed


def test_links(pair: Pair) -> None:
    answer = ask(
        pair.one,
        f"""process_flag(trap_exit, true),
        P = spawn_link('{pair.two_name}', fun() -> receive stop -> exit(enough) end end),
        P ! stop,
        receive {{'EXIT', P, Reason}} -> Reason end""",
    )
    assert answer == "enough"


def test_monitors(pair: Pair) -> None:
    answer = ask(
        pair.one,
        f"""{{P, M}} = spawn_monitor('{pair.two_name}', fun() -> receive never -> ok end end),
        exit(P, kill),
        One = receive {{'DOWN', M, process, P, R1}} -> R1 end,
        M2 = monitor(process, {{nobody, '{pair.two_name}'}}),
        Two = receive {{'DOWN', M2, process, _, R2}} -> R2 end,
        {{One, Two}}""",
    )
    assert answer == "{killed,noproc}"


def test_64_megabytes_both_ways(pair: Pair) -> None:
    answer = ask(
        pair.one,
        f"""B = binary:copy(<<"0123456789abcdef">>, 4 * 1024 * 1024),
        B =:= erpc:call('{pair.two_name}', erlang, iolist_to_binary, [B], infinity)""",
    )
    assert answer == "true"


def test_ten_thousand_messages_in_order(pair: Pair) -> None:
    answer = ask(
        pair.one,
        f"""Me = self(),
        P = spawn('{pair.two_name}', fun() ->
            Me ! {{got, [receive {{n, N}} -> N end || _ <- lists:seq(1, 10000)]}} end),
        [P ! {{n, N}} || N <- lists:seq(1, 10000)],
        receive {{got, L}} -> L =:= lists:seq(1, 10000) end""",
    )
    assert answer == "true"


def test_global(pair: Pair) -> None:
    ask(pair.one, f"net_adm:ping('{pair.two_name}')")
    assert ask(pair.one, "ok = global:sync(), global:register_name(here, self())") == "yes"
    until(pair.two, f"node(global:whereis_name(here)) =:= '{pair.one_name}'", "true")
    assert ask(pair.two, "global:register_name(here, self())") == "no"
    assert ask(pair.two, "global:trans({a, self()}, fun() -> locked end)") == "locked"


def test_pg(pair: Pair) -> None:
    ask(pair.one, f"net_adm:ping('{pair.two_name}')")
    for erlang in (pair.one, pair.two):
        ask(erlang, "{ok, P} = pg:start(pg), unlink(P)")
        ask(erlang, "pg:join(everyone, self())")
    for erlang in (pair.one, pair.two):
        until(erlang, "length(pg:get_members(everyone))", "2")


# -- failures ----------------------------------------------------------------------------


UNHURRIED = ("-kernel", "net_ticktime", "3600")
"""A net_ticktime so long that silence does not explain a loss."""


def join(erlang: Erlang, node: str) -> None:
    assert ask(erlang, f"net_adm:ping('{node}')") == "pong"


def alone(erlang: Erlang) -> None:
    """Waits until the node is connected to no other node."""
    until(erlang, "nodes()", "[]")


def test_a_killed_node_is_down_at_once_and_may_come_back() -> None:
    nodes = two_gatewayed_nodes(*UNHURRIED)
    with nodes as ((one_gateway, one), (two_gateway, two)):
        join(one, two_gateway.name)
        two.kill()
        alone(one)
        assert ask(one, f"net_adm:ping('{two_gateway.name}')") == "pang"
        with gatewayed_erl(two_gateway) as again:
            assert ask(one, f"net_adm:ping('{two_gateway.name}')") == "pong"
            join(again, one_gateway.name)
            ask(again, f"erlang:disconnect_node('{one_gateway.name}')")
            alone(again)
            alone(one)


def test_a_gateway_that_ends_is_seen_at_once_and_its_node_registers_again() -> None:
    with ExitStack() as stack:
        one_gateway = stack.enter_context(GatewayThread())
        two_gateway = stack.enter_context(GatewayThread())
        one = stack.enter_context(gatewayed_erl(one_gateway, *UNHURRIED))
        two = stack.enter_context(gatewayed_erl(two_gateway, *UNHURRIED))
        join(one, two_gateway.name)
        join(two, one_gateway.name)
        settings = two_gateway.gateway.settings
        epmd_port = two_gateway.epmd_port
        two_gateway.close()
        alone(one)
        alone(two)
        stack.enter_context(GatewayThread(replace(settings, epmd_port=epmd_port)))
        until(one, f"net_adm:ping('{two_gateway.name}')", "pong")


def test_a_killed_gateway_is_seen_by_its_node_at_once_by_others_in_net_ticktime() -> None:
    with ExitStack() as stack:
        one_gateway = stack.enter_context(GatewayThread())
        two_gateway = stack.enter_context(GatewayProcess())
        ticktime = ("-kernel", "net_ticktime", "4")
        one = stack.enter_context(gatewayed_erl(one_gateway, *ticktime))
        two = stack.enter_context(gatewayed_erl(two_gateway, *ticktime))
        join(one, two_gateway.name)
        join(two, one_gateway.name)
        two_gateway.kill()
        alone(two)
        alone(one)


def test_ticks_pass(pair: Pair) -> None:
    with two_gatewayed_nodes("-kernel", "net_ticktime", "4") as (
        (_, one),
        (two_gateway, _two),
    ):
        join(one, two_gateway.name)
        # Twice the net_ticktime without traffic: only ticks keep the connection.
        assert ask(one, "receive after 9000 -> nodes() end") == f"['{two_gateway.name}']"


def test_a_wrong_cookie_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        one_gateway = stack.enter_context(GatewayThread())
        two_gateway = stack.enter_context(GatewayThread())
        one = stack.enter_context(gatewayed_erl(one_gateway, cookie="right"))
        stack.enter_context(gatewayed_erl(two_gateway, cookie="wrong"))
        assert ask(one, f"net_adm:ping('{two_gateway.name}')") == "pang"
    assert "not connected: the BEAM node closed the connection" in caplog.text


def test_nobody_there_is_one_clear_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "quicdist.gateway")
    with ExitStack() as stack:
        impatient = replace(loopback_settings(), dial_timeout=1.0)
        gateway = stack.enter_context(GatewayThread(impatient))
        empty = stack.enter_context(GatewayThread())
        erlang = stack.enter_context(gatewayed_erl(gateway))
        # A gateway without its BEAM, an unused port, and a name without an address.
        assert ask(erlang, f"net_adm:ping('{empty.name}')") == "pang"
        assert f"{empty.name} is not registered with its gateway" in caplog.text
        assert ask(erlang, "net_adm:ping('1@127.0.0.1')") == "pang"
        assert "cannot reach 127.0.0.1:1" in caplog.text
        assert ask(erlang, "net_adm:ping('rabbit@elsewhere')") == "pang"
        assert "cannot look up rabbit@elsewhere" in caplog.text


def test_the_number_in_the_name_tells_where_the_gateway_is() -> None:
    with ExitStack() as stack:
        number = free_port()
        settings = replace(loopback_settings(f"{number}@127.0.0.1"), epmd_port=None)
        gateway = stack.enter_context(GatewayThread(settings))
        assert gateway.epmd_port == number
        other = stack.enter_context(GatewayThread())
        erlang = stack.enter_context(gatewayed_erl(other))
        stack.enter_context(gatewayed_erl(gateway, told_port=False))
        assert ask(erlang, f"net_adm:ping('{gateway.name}')") == "pong"


def test_a_node_may_start_before_its_gateway() -> None:
    with ExitStack() as stack:
        first = stack.enter_context(GatewayThread())
        settings, epmd_port = first.gateway.settings, first.epmd_port
        first.close()
        early = stack.enter_context(gatewayed_erl(first))
        assert ask(early, "is_alive()") == "true"
        late = stack.enter_context(GatewayThread(replace(settings, epmd_port=epmd_port)))
        other = stack.enter_context(GatewayThread())
        erlang = stack.enter_context(gatewayed_erl(other))
        until(erlang, f"net_adm:ping('{late.name}')", "pong")


def test_nodes_keep_their_names() -> None:
    """A gateway with a route to all nodes of a host, and one that has learned the routes back.

    The latter dials the node and a tool on the same host.
    """
    one_at, two_at = (("127.0.0.1", free_port()) for _ in range(2))
    with ExitStack() as stack:
        one_gateway = stack.enter_context(
            GatewayThread(
                replace(
                    loopback_settings("app@one.test"),
                    listen=one_at,
                    routes={"*@two.test": two_at},
                )
            )
        )
        two_gateway = stack.enter_context(
            GatewayThread(replace(loopback_settings("app@two.test"), listen=two_at))
        )
        one = stack.enter_context(gatewayed_erl(one_gateway))
        two = stack.enter_context(gatewayed_erl(two_gateway))
        tool = stack.enter_context(gatewayed_erl(one_gateway, name="tool@one.test"))
        assert ask(two, "net_adm:ping('app@one.test')") == "pang"
        assert ask(one, "net_adm:ping('app@two.test')") == "pong"
        until(two, "nodes()", "['app@one.test']")
        ask(one, "erlang:disconnect_node('app@two.test')")
        until(two, "nodes()", "[]")
        until(two, "net_adm:ping('app@one.test')", "pong")
        until(two, "net_adm:ping('tool@one.test')", "pong")
        assert ask(tool, "lists:member('app@two.test', nodes())") == "true"
        assert ask(two, "net_adm:ping('nobody@one.test')") == "pang"


def test_a_name_whose_key_is_known_is_not_taken_by_a_node_of_the_same_host(tmp_path: Path) -> None:
    one_at, two_at = (("127.0.0.1", free_port()) for _ in range(2))
    known = tmp_path / "known_nodes"
    known.write_text(f"db@two.test sha256:{'ab' * 32}\n")
    with ExitStack() as stack:
        one_gateway = stack.enter_context(
            GatewayThread(
                replace(
                    loopback_settings("app@one.test"),
                    listen=one_at,
                    trust=Trust.first_use(known),
                )
            )
        )
        two_gateway = stack.enter_context(
            GatewayThread(
                replace(
                    loopback_settings("app@two.test"),
                    listen=two_at,
                    routes={"*@one.test": one_at},
                    identity=Identity.ephemeral(["two.test"]),
                )
            )
        )
        one = stack.enter_context(gatewayed_erl(one_gateway))
        two = stack.enter_context(gatewayed_erl(two_gateway))
        for name in ("db@two.test", "tool@two.test"):
            stack.enter_context(gatewayed_erl(two_gateway, name=name))
        assert ask(two, "net_adm:ping('app@one.test')") == "pong"
        assert ask(one, "net_adm:ping('tool@two.test')") == "pong"
        assert ask(one, "net_adm:ping('db@two.test')") == "pang"


def test_a_node_on_inet6_tcp() -> None:
    """The sockets are IPv6 and reach 127.0.0.1 by its IPv4-mapped address."""
    with ExitStack() as stack:
        gateways = [stack.enter_context(GatewayThread()) for _ in range(2)]
        one = stack.enter_context(gatewayed_erl(gateways[0], proto_dist="inet6_tcp"))
        two = stack.enter_context(gatewayed_erl(gateways[1]))
        assert ask(one, f"net_adm:ping('{gateways[1].name}')") == "pong"
        ask(one, f"erlang:disconnect_node('{gateways[1].name}')")
        until(two, "nodes()", "[]")
        until(two, f"net_adm:ping('{gateways[0].name}')", "pong")


def resident(pid: int) -> int:
    """Returns the current memory of the process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory use from /proc")
def test_a_node_that_stops_reading_stops_the_sender_not_the_gateways() -> None:
    messages, size = 96, 1024 * 1024
    with ExitStack() as stack:
        gateways = [stack.enter_context(GatewayProcess()) for _ in range(2)]
        one, two = (stack.enter_context(gatewayed_erl(gateway)) for gateway in gateways)
        ask(one, f"pong = net_adm:ping('{gateways[1].name}')")
        ask(
            two,
            """register(sink, spawn(fun() -> (fun Loop(N) ->
                receive {count, P} -> P ! {count, N}, Loop(N); B when is_binary(B) ->
                    Loop(N + byte_size(B)) end end)(0) end))""",
        )
        before = [resident(gateway.os_pid) for gateway in gateways]
        os.kill(two.os_pid, signal.SIGSTOP)
        ask(
            one,
            f"""register(source, spawn(fun() ->
                B = binary:copy(<<0>>, {size}),
                [{{sink, '{gateways[1].name}'}} ! B || _ <- lists:seq(1, {messages})],
                receive done -> ok end end))""",
        )
        until(one, "element(2, process_info(whereis(source), status))", "suspended")
        grown = wait_settled(lambda: [resident(gateway.os_pid) for gateway in gateways])
        for now, was in zip(grown, before, strict=True):
            assert now - was < 32 * 1024 * 1024
        os.kill(two.os_pid, signal.SIGCONT)
        until(two, "sink ! {count, self()}, receive {count, N} -> N end", str(messages * size))
        assert ask(one, "nodes()") == f"['{gateways[1].name}']"


@pytest.mark.parametrize("address", ["::1", "127.0.0.1"])
def test_a_gateway_at_both_families_reaches_either(address: str) -> None:
    """Erlang node names cannot contain IPv6 addresses, so routes give the addresses."""
    names = [f"{free_port()}@127.0.0.1" for _ in range(2)]
    ports = [int(name.partition("@")[0]) for name in names]
    with ExitStack() as stack:
        erlangs = []
        for side, listen in enumerate(("::", address)):
            settings = replace(
                loopback_settings(names[side]),
                listen=(listen, ports[side]),
                routes={names[1 - side]: (address, ports[1 - side])},
            )
            gateway = stack.enter_context(GatewayThread(settings))
            erlangs.append(stack.enter_context(gatewayed_erl(gateway)))
        one, two = erlangs
        assert ask(one, f"net_adm:ping('{names[1]}')") == "pong"
        ask(one, f"erlang:disconnect_node('{names[1]}')")
        until(two, "nodes()", "[]")
        until(two, f"net_adm:ping('{names[0]}')", "pong")
