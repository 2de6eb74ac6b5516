# The tests need a Python with quicdist: QUICDIST_VENV is its virtual environment.
venv = System.get_env("QUICDIST_VENV") || raise "QUICDIST_VENV is not set"
Application.put_env(:quicdist, :test_venv, venv)

{:ok, socket} = :gen_udp.open(0, ip: {127, 0, 0, 1})
{:ok, port} = :inet.port(socket)
:ok = :gen_udp.close(socket)

:ok = Quicdist.start_distribution(name: :"#{port}@127.0.0.1", cookie: :beam_tests, venv: venv)
ExUnit.start()
