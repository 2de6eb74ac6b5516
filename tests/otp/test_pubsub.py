"""The messages of the adapter of Phoenix.PubSub over pg, with a real Elixir node."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quicdist import Mailbox, NameTaken
from quicdist.otp import pubsub
from tests.node.conftest import Beam, MakeNode, atom
from tests.support.erlang import NO_ELIXIR, elixir_libraries
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.erlang

# The worker and the broadcast of the library between nodes. Subscribers are in a Registry, as in
# the library.
ELIXIR = """
defmodule Probe.Worker do
  use GenServer
  def start(group), do: GenServer.start(__MODULE__, group, name: group)
  def init(group) do
    :ok = :pg.join(Phoenix.PubSub, group, self())
    {:ok, group}
  end
  def handle_info({:forward_to_local, topic, message, _dispatcher}, group) do
    Registry.dispatch(Probe.Registry, topic, fn entries ->
      for {pid, _} <- entries, do: send(pid, message)
    end)
    {:noreply, group}
  end
end

defmodule Probe do
  def start do
    parent = self()
    spawn(fn ->
      {:ok, _} = Registry.start_link(keys: :duplicate, name: Probe.Registry)
      send(parent, :registry_is_up)
      Process.sleep(:infinity)
    end)
    receive do :registry_is_up -> :ok end
    {:ok, _} = :pg.start(Phoenix.PubSub)
    {:ok, _} = Probe.Worker.start(Probe.PubSub.Adapter)
    :ok
  end
  def broadcast(topic, message) do
    for pid <- :pg.get_members(Phoenix.PubSub, Probe.PubSub.Adapter), node(pid) != node() do
      send(pid, {:forward_to_local, topic, message, Phoenix.PubSub})
    end
    :ok
  end
  def received(topic, report) do
    {:ok, _} = Registry.register(Probe.Registry, topic, [])
    send(report, :subscribed)
    receive do message -> message after 20_000 -> :late end
  end
end
"""


async def get(me: Mailbox) -> Any:
    return await me.receive(timeout=PATIENCE)


async def test_topics_between_elixir_and_python(beam: Beam, make_node: MakeNode) -> None:
    libraries = elixir_libraries()
    if libraries is None:
        pytest.skip(NO_ELIXIR)
    await beam.eval(f'code:add_path("{libraries}/elixir/ebin")')
    source = ",".join(str(byte) for byte in ELIXIR.encode())
    await beam.eval(
        f"""{{ok, _}} = application:ensure_all_started(elixir),
        'Elixir.Code':eval_string(<<{source}>>), 'Elixir.Probe':start()"""
    )
    async with make_node() as node, node.mailbox("me") as me, node.mailbox() as other:
        await node.connect(beam.name)
        topics = pubsub.start(node, "Probe.PubSub")
        with pytest.raises(NameTaken):
            pubsub.start(node, "Probe.PubSub")
        topics.subscribe("room:1", me)
        topics.subscribe("room:1", other)
        topics.subscribe("room:2", other)
        group = "'Elixir.Phoenix.PubSub', 'Elixir.Probe.PubSub.Adapter'"
        await beam.eval(
            f"""(fun F() -> length(pg:get_members({group})) =:= 2
                orelse begin timer:sleep(20), F() end end)()"""
        )
        await beam.eval("""'Elixir.Probe':broadcast(<<"room:1">>, {hello, <<"all">>})""")
        assert await get(me) == (atom("hello"), b"all")
        assert await get(other) == (atom("hello"), b"all")

        listening = asyncio.create_task(
            beam.eval(f"'Elixir.Probe':received(<<\"room:1\">>, {{me, '{node.name}'}})")
        )
        assert await get(me) == "subscribed"
        topics.broadcast("room:1", {b"body": 1}, sender=me)
        assert await listening == {b"body": 1}
        assert await get(other) == {b"body": 1}
        topics.broadcast("room:2", 2)
        assert await get(other) == 2
        topics.unsubscribe("room:2", other)
        topics.local_broadcast("room:2", 3)
        topics.local_broadcast("room:1", 4)
        assert await get(me) == 4
        assert await get(other) == 4
        async with node.mailbox() as brief:
            topics.subscribe("room:3", brief)
        topics.broadcast("room:3", 5)
