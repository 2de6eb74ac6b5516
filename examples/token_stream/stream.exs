# Prints the first tokens of a model. The model stops when no more are taken.
venv = System.fetch_env!("QUICDIST_VENV")
port = String.to_integer(System.get_env("PORT", "5555"))
:ok = Quicdist.start_distribution(name: :"#{port}@127.0.0.1", cookie: :example, venv: venv)

{:ok, python} =
  Quicdist.Python.start_link(name: "0@127.0.0.1", modules: ["model.py"], venv: venv)

python
|> Quicdist.Python.node_name()
|> Quicdist.stream(:model, :generate, ["once upon a time"])
|> Stream.take(12)
|> Enum.each(&IO.write([&1, " "]))

IO.puts("")
GenServer.stop(python)
