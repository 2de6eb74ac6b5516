"""Elixir and Erlang nodes behind gateways dial nodes behind NATs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from quicdist.gateway import erl_arguments
from tests.nat.conftest import Gateways, Sites, Up
from tests.nat.kinds import DOUBLE_SYMMETRIC, MASQ, OPEN, SYMMETRIC, Kind
from tests.nat.lab import Site
from tests.nat.processes import COOKIE, NodeProcess
from tests.support.erlang import ERL, NO_ELIXIR
from tests.support.scripted_nodes import check_all_is_well, waiting_node

pytestmark = [pytest.mark.erlang, pytest.mark.slow]

_SERVER = """
{:ok, _} = Agent.start(fn -> %{} end, name: :store)
IO.puts("up")
IO.read(:stdio, :line)
"""

_CLIENT = """
[python, other] = Enum.map(System.argv(), &String.to_atom/1)
:pong = Node.ping(python)
send({:sink, python}, "from Elixir")
:pong = Node.ping(other)
:ok = Agent.update({:store, other}, &Map.put(&1, "n", 1))
%{"n" => 1} = Agent.get({:store, other}, & &1)
^other = :rpc.call(other, Kernel, :node, [])
6 = :erpc.call(other, Enum, :sum, [[1, 2, 3]])
big = :crypto.strong_rand_bytes(16 * 1024 * 1024)
true = :erlang.md5(big) == :erpc.call(other, :erlang, :md5, [big], :infinity)
:ok = :global.sync()
:yes = :global.register_name(:here, self())
true = self() == :erpc.call(other, :global, :whereis_name, [:here])
IO.puts("all is well")
"""


def elixir(site: Site, up: Up, module_dir: Path, script: str, *words: str) -> Sequence[str]:
    """Returns the command of a node behind a gateway."""
    erl = [*erl_arguments(module_dir), "-epmd_port", str(up["epmd_port"])]
    named = ["--name", up["gateway"], "--cookie", COOKIE, "--erl", " ".join(erl)]
    return site.node.command(["elixir", *named, "-e", script, *words])


@pytest.mark.skipif(shutil.which("elixir") is None, reason=NO_ELIXIR)
@pytest.mark.parametrize("kind", [OPEN, MASQ], ids=str)
def test_an_elixir_node_dials_nodes_behind_nats(
    sites: Sites, gateways: Gateways, tmp_path: Path, kind: Kind
) -> None:
    """The dialer is on a public address without a relay, or behind a NAT."""
    here, far = sites(kind, 0), sites(DOUBLE_SYMMETRIC, 1)
    one, other = gateways(far), gateways(here, f"4433@{here.public}" if kind is OPEN else "")
    environment = {**os.environ, "HOME": str(tmp_path)}
    with ExitStack() as stack:
        python = stack.enter_context(NodeProcess(sites(SYMMETRIC, 0).node, tmp_path / "python"))
        stack.enter_context(waiting_node(elixir(far, one, tmp_path, _SERVER), environment))
        client = elixir(here, other, tmp_path, _CLIENT, python.name, one["gateway"])
        check_all_is_well(client, environment)
        assert python.ask("receive") == len("from Elixir")


def test_a_stock_node_on_a_public_address_dials_nodes_behind_nats(
    sites: Sites, gateways: Gateways, tmp_path: Path
) -> None:
    here, far = sites(OPEN, 0), sites(DOUBLE_SYMMETRIC, 1)
    one, other = gateways(far), gateways(here, f"4433@{here.public}")
    talk = (
        'Nodes = [list_to_atom(N) || N <- string:lexemes(os:getenv("PEERS"), " ")], '
        "[pong, pong] = [net_adm:ping(N) || N <- Nodes], [Python, Erlang] = Nodes, "
        '{sink, Python} ! <<"from Erlang">>, Erlang = rpc:call(Erlang, erlang, node, []), '
        'io:format("all is well~n"), halt().'
    )
    with ExitStack() as stack:
        python = stack.enter_context(NodeProcess(sites(SYMMETRIC, 0).node, tmp_path / "python"))
        waiting = subprocess.Popen(
            far.node.command([*erl(one), "-eval", "receive stop -> ok end."]),
            env={**os.environ, "HOME": str(tmp_path)},
        )
        stack.callback(waiting.wait)
        stack.callback(waiting.kill)
        peers = f"{python.name} {one['gateway']}"
        client = here.node.command([*erl(other), "-eval", f"{_UNTIL_UP} {talk}"])
        check_all_is_well(client, {**os.environ, "HOME": str(tmp_path), "PEERS": peers})
        assert python.ask("receive") == len("from Erlang")


_UNTIL_UP = """
Up = fun Up(N) -> case net_adm:ping(N) of pong -> ok; pang -> timer:sleep(50), Up(N) end end,
Up(list_to_atom(lists:last(string:lexemes(os:getenv("PEERS"), " ")))),
"""


def erl(up: Up) -> Sequence[str]:
    """Returns the command of a stock node behind a gateway."""
    program, *words = shlex.split(up["start"])
    return [ERL if program == "erl" else program, *words, "-setcookie", COOKIE, "-noshell"]
