defmodule PythonProducer do
  @moduledoc "A producer of Broadway: the items of a Python generator, computed on demand."
  use GenStage
  @behaviour Broadway.Producer

  @impl true
  def init({node, module, function, args}) do
    {:ok, stream} = :quicdist_stream.open(node, module, function, args)
    {:producer, %{stream: stream, demand: 0}}
  end

  @impl true
  def handle_demand(count, %{demand: demand} = state) do
    if demand == 0, do: Quicdist.ask(state.stream)
    {:noreply, [], %{state | demand: demand + count}}
  end

  @impl true
  def handle_info({:quicdist_stream, stream, {:items, items}}, state) do
    # GenStage keeps the items beyond the demand: at most one message of the stream.
    demand = max(state.demand - length(items), 0)
    if demand > 0, do: Quicdist.ask(stream)
    {:noreply, Enum.map(items, &message/1), %{state | demand: demand}}
  end

  # Broadway starts a producer that ends again, and the stream with it: after an error it should.
  def handle_info({:quicdist_stream, _stream, :done}, state), do: {:noreply, [], state}
  def handle_info({:quicdist_stream, _stream, {:error, reason}}, state), do: {:stop, reason, state}

  defp message(item) do
    %Broadway.Message{data: item, acknowledger: Broadway.NoopAcknowledger.init()}
  end
end
