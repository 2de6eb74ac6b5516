defmodule Quicdist.PythonTest do
  use ExUnit.Case, async: false

  @served Path.expand("served.py", __DIR__)

  defp python(options \\ []) do
    venv = Application.fetch_env!(:quicdist, :test_venv)
    {Quicdist.Python, [name: "0@127.0.0.1", modules: [@served], venv: venv] ++ options}
  end

  defp until(condition, attempts \\ 400) do
    cond do
      value = condition.() -> value
      attempts == 0 -> flunk("the condition did not become true")
      true ->
        Process.sleep(25)
        until(condition, attempts - 1)
    end
  end

  defp alive?(os_pid), do: File.dir?("/proc/#{os_pid}")

  test "a supervised node answers as soon as it has started" do
    child = start_supervised!(python())
    node = Quicdist.Python.node_name(child)
    assert :erpc.call(node, :served, :add, [1, 2]) == 3
  end

  test "a stream is an enumerable" do
    node = Quicdist.Python.node_name(start_supervised!(python()))
    assert node |> Quicdist.stream(:served, :count, [1_000_000_000]) |> Enum.take(3) == [0, 1, 2]
    assert_raise Quicdist.StreamError, ~r/undef/, fn ->
      node |> Quicdist.stream(:served, :missing) |> Enum.to_list()
    end
  end

  defmodule Reader do
    @moduledoc "A process that enumerates one step at a time, and reports what its loop gets between them."
    use GenServer

    def init({test, enumerable}) do
      step = &Enumerable.reduce(enumerable, &1, fn item, _ -> {:suspend, item} end)
      {:ok, {test, step}}
    end

    def handle_call(:next, _from, {test, step}) do
      case step.({:cont, nil}) do
        {:suspended, item, next} -> {:reply, item, {test, next}}
        {_done_or_halted, _} -> {:reply, :done, {test, nil}}
      end
    end

    def handle_info(message, {test, _} = state) do
      send(test, {:unknown, message})
      {:noreply, state}
    end
  end

  test "a process with a loop of its own enumerates a stream in steps" do
    node = Quicdist.Python.node_name(start_supervised!(python()))
    stream = Quicdist.stream(node, :served, :count, [5000])
    {:ok, reader} = GenServer.start_link(Reader, {self(), stream})
    assert for(_ <- 0..4999, do: GenServer.call(reader, :next)) == Enum.to_list(0..4999)
    assert GenServer.call(reader, :next) == :done
    refute_received {:unknown, _}
  end

  test "items arrive as messages when they are asked for" do
    node = Quicdist.Python.node_name(start_supervised!(python()))
    {:ok, stream} = Quicdist.subscribe(node, :served, :count, [5000])
    assert collect(stream) == Enum.to_list(0..4999)
    assert {:error, reason} = first_answer(Quicdist.subscribe(node, :served, :missing))
    assert inspect(reason) =~ "undef"
  end

  defp collect(stream) do
    case first_answer({:ok, stream}) do
      {:items, items} ->
        :ok = Quicdist.ask(stream)
        items ++ collect(stream)

      :done ->
        []
    end
  end

  defp first_answer({:ok, stream}) do
    assert_receive {:quicdist_stream, ^stream, answer}, 60_000
    answer
  end

  test "the generator is closed when the process that subscribed ends" do
    node = Quicdist.Python.node_name(start_supervised!(python()))
    before = :erpc.call(node, :served, :closed, [])

    task =
      Task.async(fn ->
        first_answer(Quicdist.subscribe(node, :served, :count, [1_000_000_000]))
      end)

    assert {:items, [0 | _]} = Task.await(task, 60_000)
    until(fn -> :erpc.call(node, :served, :closed, []) == before + 1 end)
  end

  test "no answer arrives after a stream was cancelled" do
    node = Quicdist.Python.node_name(start_supervised!(python()))
    {:ok, stream} = Quicdist.subscribe(node, :served, :count, [1_000_000_000])
    assert {:items, _} = first_answer({:ok, stream})
    :ok = Quicdist.ask(stream)
    :ok = Quicdist.cancel(stream)
    refute_received {:quicdist_stream, ^stream, _}
    until(fn -> :erpc.call(node, :served, :closed, []) == 1 end)
  end

  test "the process ends with its supervisor" do
    child = start_supervised!(python())
    os_pid = :erpc.call(Quicdist.Python.node_name(child), :served, :process_id, [])
    assert alive?(os_pid)
    stop_supervised!("0@127.0.0.1")
    refute alive?(os_pid)
  end

  test "events and lines are passed to functions" do
    test = self()
    log = fn level, text -> send(test, {:line, level, to_string(text)}) end
    events = fn name, measurements, metadata -> send(test, {name, measurements, metadata}) end
    start_supervised!(python(id: :watched, log: log, events: events))
    assert_receive {[:quicdist, :program, :ready], %{duration: _}, %{program: _}}
    assert_receive {:line, :info, "TLS: " <> _}
    stop_supervised!(:watched)
    assert_receive {[:quicdist, :program, :exit], %{uptime: _}, %{status: 0}}
  end

  test "running calls end before the node stops" do
    node = Quicdist.Python.node_name(start_supervised!(python(id: :draining)))
    call = Task.async(fn -> :erpc.call(node, :served, :slow, [3.0]) end)
    until(fn -> :erpc.call(node, :served, :running, []) == 1 end)
    stop_supervised!(:draining)
    assert Task.await(call) == "done"
  end

  test "the supervisor restarts a node that crashes" do
    child = start_supervised!(python(id: :crashing))
    node = Quicdist.Python.node_name(child)
    watch = Process.monitor(child)
    assert {:erpc, :noconnection} = catch_error(:erpc.call(node, :served, :crash, []))
    assert_receive {:DOWN, ^watch, :process, _, {:exited, 137, _}}, 10_000
    again = until(fn -> (pid = running(:crashing)) != child && pid end)
    assert :erpc.call(Quicdist.Python.node_name(again), :served, :add, [1, 2]) == 3
  end

  defp running(id) do
    {:ok, supervisor} = ExUnit.fetch_test_supervisor()

    Enum.find_value(Supervisor.which_children(supervisor), fn
      {^id, pid, _, _} when is_pid(pid) -> pid
      _ -> nil
    end)
  end

  test "a module that cannot be imported is an error with the reason" do
    {_, options} = python(modules: ["missing.py"], id: :missing)
    Process.flag(:trap_exit, true)
    assert {:error, {:exited, 5, lines}} = Quicdist.Python.start_link(Keyword.put(options, :modules, ["missing.py"]))
    assert Enum.any?(lines, &(&1 =~ "missing.py"))
  end

  test "an option that does not exist is an error" do
    {_, options} = python(module: "served.py")
    error = {:bad_option, {:module, "served.py"}}
    assert catch_error(Quicdist.Python.start_link(options)) == error
    assert catch_error(Quicdist.start_distribution(name: :"1@127.0.0.1", shutdown: 1)) ==
             {:bad_option, {:shutdown, 1}}
    assert catch_error(Quicdist.stream(node(), :served, :count, [1], max_items: 0) |> Enum.to_list()) ==
             {:bad_option, {:max_items, 0}}
    assert catch_error(Quicdist.subscribe(node(), :served, :count, [1], window: 1)) ==
             {:bad_option, {:window, 1}}
  end

  test "a program that does not exist is an error" do
    Process.flag(:trap_exit, true)
    assert {:error, {:not_found, _}} =
             Quicdist.Python.start_link(name: "0@127.0.0.1", modules: ["a.py"], venv: "/nowhere")
  end

  test "a worker that is killed with running calls is replaced by one without calls" do
    {_, worker} = python()
    start_supervised!({Quicdist.Pool, name: :killed, size: 1, worker: worker})

    running =
      for _ <- 1..3 do
        Task.async(fn -> catch_exit(Quicdist.Pool.call(:killed, :served, :slow, [60], 60_000)) end)
      end

    until(fn -> match?([3], calls_of(:killed)) end)
    assert {:worker_down, _} = catch_exit(Quicdist.Pool.call(:killed, :served, :crash, []))
    for {:worker_down, _} <- Task.await_many(running, 60_000), do: :ok
    until(fn -> length(Quicdist.Pool.nodes(:killed)) == 1 end)
    assert Quicdist.Pool.call(:killed, :served, :add, [1, 2]) == 3
    assert calls_of(:killed) == [0]
    assert length(Quicdist.Pool.nodes(:killed)) == 1
  end

  defp calls_of(pool), do: for({_, _, _, calls} <- :ets.tab2list(pool), do: calls)

  test "a pool calls the worker with the fewest running calls" do
    {_, worker} = python()
    test = self()
    events = fn name, measurements, metadata -> send(test, {name, measurements, metadata}) end
    worker = worker ++ [events: events]
    start_supervised!({Quicdist.Pool, name: :workers, size: 2, worker: worker})
    assert length(Quicdist.Pool.nodes(:workers)) == 2

    ids =
      1..2
      |> Enum.map(fn _ ->
        Task.async(fn -> Quicdist.Pool.call(:workers, :served, :slow, [2.0]) end)
      end)
      |> Task.await_many()

    assert ids == ["done", "done"]
    assert_receive {[:quicdist, :pool, :call], _, %{pool: :workers, node: one}}
    assert_receive {[:quicdist, :pool, :call], _, %{pool: :workers, node: two}}
    assert one != two
    first = Quicdist.Pool.call(:workers, :served, :process_id, [])
    assert is_integer(first)
    assert {:worker_down, _} = catch_exit(Quicdist.Pool.call(:workers, :served, :crash, []))
    until(fn -> length(Quicdist.Pool.nodes(:workers)) == 2 end)
    assert Quicdist.Pool.call(:workers, :served, :add, [1, 2]) == 3
  end

  test "a pool has streams, which count as calls until they end" do
    {_, worker} = python()
    start_supervised!({Quicdist.Pool, name: :streaming, size: 2, worker: worker})
    endless = fn -> Quicdist.Pool.subscribe(:streaming, :served, :count, [1_000_000_000]) end
    streams = for _ <- 1..4, do: elem({:ok, _} = endless.(), 1)
    assert calls_of(:streaming) == [2, 2]
    Enum.each(streams, &Quicdist.cancel/1)
    until(fn -> calls_of(:streaming) == [0, 0] end)
    assert :streaming |> Quicdist.Pool.stream(:served, :count, [3]) |> Enum.to_list() == [0, 1, 2]
    until(fn -> calls_of(:streaming) == [0, 0] end)

    assert_raise Quicdist.StreamError, ~r/undef: :served.missing\/0 is not exported/, fn ->
      :streaming |> Quicdist.Pool.stream(:served, :missing) |> Enum.to_list()
    end
  end

  @tag :tmp_dir
  test "the script of the README is a node, which drains", %{tmp_dir: directory} do
    readme = File.read!(Path.expand("../README.md", __DIR__))
    [_, script] = Regex.run(~r/```python\n(# app.py\n.*?)```/s, readme)
    File.write!(Path.join(directory, "app.py"), String.replace(script, "4433@", "0@"))
    {_, options} = python(id: :script, script: "app.py", cd: directory)
    child = start_supervised!({Quicdist.Python, Keyword.delete(options, :modules)})
    watch = Process.monitor(child)
    node = Quicdist.Python.node_name(child)
    assert :erpc.call(node, :app, :add, [1, 2]) == 3
    stop_supervised!(:script)
    assert_receive {:DOWN, ^watch, :process, _, :shutdown}
  end

  test "a traceback is one record" do
    test = self()
    log = fn level, text -> send(test, {:record, level, text}) end
    node = Quicdist.Python.node_name(start_supervised!(python(id: :logging, log: log)))
    assert {:exception, _, _} = catch_error(:erpc.call(node, :served, :fail, ["no such word"]))
    assert_receive {:record, :error, "served:fail, called by " <> text}, 60_000
    assert text =~ ~r/Traceback .*in fail.*ValueError: no such word\z/s
    assert_receive {:record, :info, "printed"}, 60_000
  end

  test "a node that is distributed already is not started twice" do
    assert {:error, {:already_distributed, _}} =
             Quicdist.start_distribution(name: :"1@127.0.0.1")
  end
end
