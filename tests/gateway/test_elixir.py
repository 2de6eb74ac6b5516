"""Two Elixir nodes meet over QUIC, each behind a gateway."""

from __future__ import annotations

import shutil
from contextlib import ExitStack

import pytest

from quicdist.gateway import erl_arguments
from tests.support.gatewayed import GatewayThread, module_directory
from tests.support.scripted_nodes import check_all_is_well, waiting_node

pytestmark = [
    pytest.mark.erlang,
    pytest.mark.skipif(
        shutil.which("elixir") is None, reason="no Elixir: sudo apt-get install elixir"
    ),
]

_SERVER = """
{:ok, _} = Agent.start(fn -> %{} end, name: :store)
{:ok, _} = :pg.start(:pg)
:pg.join(:everyone, self())
IO.puts("up")
IO.read(:stdio, :line)
"""

# Each line asserts a result; a failed match stops the node with an error.
_CLIENT = """
other = String.to_atom(hd(System.argv()))
true = Node.connect(other)
[^other] = Node.list()
:ok = Agent.update({:store, other}, &Map.put(&1, "n", 1))
%{"n" => 1} = Agent.get({:store, other}, & &1)
^other = :rpc.call(other, Kernel, :node, [])
6 = :erpc.call(other, Enum, :sum, [[1, 2, 3]])
big = :binary.copy("0123456789abcdef", 4 * 1024 * 1024)
true = big == :erpc.call(other, IO, :iodata_to_binary, [big], :infinity)
Process.flag(:trap_exit, true)
linked = Node.spawn_link(other, Process, :sleep, [:infinity])
watch = Process.monitor(linked)
Process.exit(linked, :kill)
receive do {:EXIT, ^linked, :killed} -> :ok end
receive do {:DOWN, ^watch, :process, ^linked, :killed} -> :ok end
:ok = :global.sync()
:yes = :global.register_name(:here, self())
true = self() == :erpc.call(other, :global, :whereis_name, [:here])
{:ok, _} = :pg.start(:pg)
:pg.join(:everyone, self())
wait = fn wait -> length(:pg.get_members(:everyone)) == 2 || (Process.sleep(20); wait.(wait)) end
true = wait.(wait)
IO.puts("all is well")
"""


def _elixir(gateway: GatewayThread, script: str, *words: str) -> list[str]:
    erl = [*erl_arguments(module_directory()), "-epmd_port", str(gateway.epmd_port)]
    named = ["--name", gateway.name, "--cookie", "gatewayed", "--erl", " ".join(erl)]
    return ["elixir", *named, "-e", script, *words]


def test_two_elixir_nodes() -> None:
    with ExitStack() as stack:
        one, two = (stack.enter_context(GatewayThread()) for _ in range(2))
        stack.enter_context(waiting_node(_elixir(one, _SERVER)))
        check_all_is_well(_elixir(two, _CLIENT, one.name))
