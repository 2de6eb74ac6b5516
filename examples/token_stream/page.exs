# A page that shows tokens as they arrive. A LiveView has the same callbacks: `handle_event/3` asks,
# `handle_info/2` gets the tokens, and what is assigned is rendered. The page asks for more when it has
# handled what arrived, so a slow page slows the model.
defmodule Page do
  use GenServer

  def init({node, render}), do: {:ok, %{node: node, render: render, text: ""}}

  def handle_cast({:event, "ask", %{"prompt" => prompt}}, page) do
    {:ok, _stream} = Quicdist.subscribe(page.node, :model, :generate, [prompt])
    {:noreply, page}
  end

  def handle_info({:quicdist_stream, stream, {:items, tokens}}, page) do
    Quicdist.ask(stream)
    text = page.text <> Enum.map_join(tokens, &(&1 <> " "))
    page.render.(text)
    {:noreply, %{page | text: text}}
  end

  def handle_info({:quicdist_stream, _stream, :done}, page), do: {:noreply, page}
  def handle_info({:quicdist_stream, _stream, {:error, reason}}, page), do: {:stop, reason, page}
end

venv = System.fetch_env!("QUICDIST_VENV")
port = String.to_integer(System.get_env("PORT", "5558"))
:ok = Quicdist.start_distribution(name: :"#{port}@127.0.0.1", cookie: :example, venv: venv)

{:ok, python} =
  Quicdist.Python.start_link(name: "0@127.0.0.1", modules: ["model.py"], venv: venv)

browser = self()
render = &send(browser, {:rendered, &1})
{:ok, page} = GenServer.start_link(Page, {Quicdist.Python.node_name(python), render})
GenServer.cast(page, {:event, "ask", %{"prompt" => "once upon a time"}})

# The user reads twelve words and closes the page. The model stops.
read = fn read ->
  receive do
    {:rendered, text} -> if length(String.split(text)) < 12, do: read.(read), else: text
  end
end

IO.puts(read.(read))
GenServer.stop(page)
GenServer.stop(python)
