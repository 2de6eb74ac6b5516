# A process that shows tokens as they arrive, as a LiveView does.
defmodule Page do
  use GenServer

  def start_link(python), do: GenServer.start_link(__MODULE__, python)

  @impl true
  def init(python), do: {:ok, %{python: python, text: ""}}

  @impl true
  def handle_call({:ask, prompt, words}, from, %{python: python} = state) do
    page = self()

    Task.start_link(fn ->
      python
      |> Quicdist.stream(:model, :generate, [prompt])
      |> Stream.take(words)
      |> Enum.each(&send(page, {:token, &1}))

      send(page, {:done, from})
    end)

    {:noreply, state}
  end

  @impl true
  def handle_info({:token, token}, state), do: {:noreply, %{state | text: state.text <> token <> " "}}
  def handle_info({:done, from}, state), do: {GenServer.reply(from, state.text) && :noreply, state}
end

venv = System.fetch_env!("QUICDIST_VENV")
port = String.to_integer(System.get_env("PORT", "5555"))
:ok = Quicdist.start_distribution(name: :"#{port}@127.0.0.1", cookie: :example, venv: venv)

{:ok, python} =
  Quicdist.Python.start_link(name: "0@127.0.0.1", modules: ["model.py"], venv: venv)

{:ok, page} = Page.start_link(Quicdist.Python.node_name(python))
IO.puts(GenServer.call(page, {:ask, "once upon a time", 12}, :infinity))
GenServer.stop(python)
