"""The long-running commands run, listen and gateway; also cert, names, demo and help."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from quicdist.carriers.epmd import EpmdServer, NodeInfo
from tests.cli.conftest import CALC, Command, end
from tests.support.erlang import Erlang
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.io


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_run_ends_cleanly_when_told(quicdist: Command, number: int) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    with quicdist.node("run", "0@127.0.0.1", "calc") as (name, process):
        assert quicdist("call", name, "calc", "add", "[1, 2]").out == "3\n"
        done = end(process, number)
    assert done.code == 0
    assert "Traceback" not in done.err
    assert "nodes are verified" in done.err
    assert f"{name} has stopped" in done.err


def test_a_gateway_without_a_policy_ends_cleanly_when_its_terminal_does(quicdist: Command) -> None:
    with quicdist.started("gateway", f"{free_port()}@127.0.0.1", "--epmd-port", "0") as process:
        assert process.stdout is not None
        assert "is up" in process.stdout.readline()
        assert end(process, signal.SIGHUP).code == 0


def test_run_outlives_its_terminal_where_it_was_told_to(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does for its command
    try:
        with quicdist.node("run", "0@127.0.0.1", "calc") as (name, process):
            process.send_signal(signal.SIGHUP)
            assert quicdist("call", name, "calc", "add", "[1, 2]").out == "3\n"
            assert end(process).code == 0
    finally:
        signal.signal(signal.SIGHUP, former)


def test_run_shows_its_metrics_to_prometheus(quicdist: Command) -> None:
    pytest.importorskip("prometheus_client")
    (quicdist.home / "calc.py").write_text(CALC)
    with quicdist.node("run", "0@127.0.0.1", "calc", "--prometheus", "0") as (name, process):
        assert quicdist("ping", name).out == "pong\n"
        assert process.stderr is not None
        address = next(line.split()[-1] for line in process.stderr if "metrics are at" in line)
        with urllib.request.urlopen(address) as answer:
            text = answer.read().decode()
        with urllib.request.urlopen(address.replace("/metrics", "/readyz")) as answer:
            assert answer.read() == b"ready\n"
        assert f'quicdist_connections_made_total{{node="{name}",role="listener"}} 1.0' in text
        port = address.rpartition(":")[2].partition("/")[0]
        again = quicdist("run", "0@127.0.0.1", "calc", "--http", port)
        assert again.code == 5
        assert f"--http {port}: Address already in use" in again.err
    assert quicdist("run", "0@127.0.0.1", "calc", "--prometheus", "x").code == 2


def test_run_lets_nodes_call_what_its_lists_say(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    lists = ("--calls", "*@127.0.0.1=calc:other", "--calls", "nobody@here=*")
    with quicdist.node("run", "0@127.0.0.1", "calc", *lists) as (name, _):
        assert quicdist("ping", name).out == "pong\n"
        quicdist("call", name, "calc", "add", "[1, 2]").refused(1, "undef")
    with quicdist.node("run", "0@127.0.0.1", "calc", "--calls", "*=calc:add") as (name, _):
        assert quicdist("call", name, "calc", "add", "[1, 2]").out == "3\n"
    for wrong in ("calc:add", "*=", "=calc:add", "*=calc"):
        done = quicdist("run", "0@127.0.0.1", "calc", "--calls", wrong)
        done.refused(2, "NODES=MODULE:FUNCTION")


def test_run_takes_ciphers_and_rates(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    options = (
        *("--cipher-suite", "TLS_AES_256_GCM_SHA384", "--key-exchange", "x25519"),
        *("--calls-per-second", "50", "--messages-per-second", "500"),
    )
    with quicdist.node("run", "0@127.0.0.1", "calc", *options) as (name, _):
        assert quicdist("call", name, "calc", "add", "[1, 2]").out == "3\n"


def test_run_logs_for_programs(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    with quicdist.node("run", "0@127.0.0.1", "calc", "--log-json", "--qlog", "q") as (
        name,
        process,
    ):
        assert quicdist("ping", name).out == "pong\n"
        lines = [json.loads(line) for line in end(process).err.splitlines()]
    events = [line["event"] for line in lines]
    assert {"packets_written", "carrier_open", "node_up", "peer_down"} <= set(events)
    assert events[-1] == "node_stopped"
    assert [line["role"] for line in lines if line["event"] == "peer_up"] == ["listener"]
    assert list((quicdist.home / "q").glob("*_server.sqlog"))


def test_run_ends_while_a_function_does_not(quicdist: Command) -> None:
    (quicdist.home / "stuck.py").write_text(
        "import time, quicdist\n@quicdist.export\ndef stick(): time.sleep(3600)\n"
    )
    with quicdist.node("run", "0@127.0.0.1", "stuck") as (name, process):
        quicdist("call", name, "stuck", "stick", "[]", "--timeout", "3").refused(6, "stick")
        assert end(process).code == 0


STOPPING = """
import os, signal, time
import quicdist

@quicdist.export
def stop_and_return():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)
    return quicdist.Atom("done")

@quicdist.export
def stop_and_stay():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3600)

@quicdist.export
def stop_again_and_again():
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
"""


def test_run_lets_calls_end_when_told_to_stop(quicdist: Command) -> None:
    (quicdist.home / "stopping.py").write_text(STOPPING)
    with quicdist.node("run", "0@127.0.0.1", "stopping", "--drain", "60") as (name, process):
        assert quicdist("call", name, "stopping", "stop_and_return", "[]").out == "done\n"
        process.wait(PATIENCE)
        assert process.returncode == 0
    with quicdist.node("run", "0@127.0.0.1", "stopping", "--drain", "60") as (name, process):
        # The second signal ends the drain.
        quicdist("call", name, "stopping", "stop_again_and_again", "[]").refused(1, "shutdown")
    with quicdist.node("run", "0@127.0.0.1", "stopping", "--drain", "0") as (name, process):
        quicdist("call", name, "stopping", "stop_and_stay", "[]").refused(1, "shutdown")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("def f(): pass\n", "nothing in"),
        ("1 / 0\n", "broken.py:1"),
        ("def f(:\n", "SyntaxError"),
    ],
)
def test_run_what_cannot_be_served(quicdist: Command, text: str | None, said: str) -> None:
    if text is not None:
        (quicdist.home / "broken.py").write_text(text)
    code = 2 if said == "nothing in" else 5
    quicdist("run", "0@127.0.0.1", "broken.py").refused(code, said)


def test_run_a_module_that_is_not_there(quicdist: Command) -> None:
    quicdist("run", "0@127.0.0.1", "no_such_module_anywhere").refused(2, "No module named")


def test_a_port_in_use(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        name = f"{port}@127.0.0.1"
        said = f"{name} cannot start: 127.0.0.1:{port}: Address already in use; choose another port"
        quicdist("run", name, "calc").refused(5, said)
        quicdist("ping", "1@127.0.0.1", "--name", name).refused(5, said)
        quicdist("listen", name).refused(5, "in use")
        quicdist("gateway", name, "--epmd-port", "0").refused(5, "in use")


def test_names_of_nodes_to_be(quicdist: Command) -> None:
    quicdist("listen", "here").refused(2, "invalid node name 'here'", "4433@127.0.0.1")
    quicdist("listen", "4433@1.2.3.4.5").refused(2, "invalid node name")
    quicdist("listen", "0@127.0.0.1", "--listen", "all").refused(2, "invalid listen address")
    quicdist("gateway", "here").refused(2, "invalid node name")
    quicdist("gateway", "1@127.0.0.1", "--route", "a=b").refused(2, "NODE=IP:PORT")
    quicdist("gateway", "1@127.0.0.1", "--policy", "none.toml").refused(5, "none.toml cannot be")
    quicdist("gateway").refused(2, "NAME is missing")
    for command in (("gateway", "1@127.0.0.1"), ("listen", "0@127.0.0.1")):
        quicdist(*command, "--cipher-suite", "RC4").refused(2, "cipher suite 'RC4'")
        quicdist(*command, "--key-exchange", "X25519MLKEM768").refused(2, "aioquic only supports")
        quicdist(*command, "--messages-per-second", "0").refused(
            2, "--messages-per-second", "greater"
        )
    quicdist("gateway", "1@127.0.0.1", "--calls-per-second", "1").refused(2, "requires a policy")


@pytest.mark.parametrize("command", ["listen", "gateway"])
def test_a_port_is_mapped_only_for_a_node_at_a_relay(quicdist: Command, command: str) -> None:
    quicdist(command, "1@127.0.0.1", "--map-port").refused(2, "--map-port requires a relay")
    quicdist(command, "1@127.0.0.1", "--path", "fast").refused(2, "--path: invalid path 'fast'")


def test_certificates_that_cannot_be_used(quicdist: Command) -> None:
    quicdist("listen", "0@127.0.0.1", "--cert", "none.pem").refused(5, "none.pem", "No such file")
    quicdist("listen", "0@127.0.0.1", "--key", "k.pem").refused(2, "--cert")
    for place in ("one", "two"):
        assert quicdist("cert", "make", "--dir", place).code == 0
    done = quicdist(
        "listen", "0@127.0.0.1", "--cert", "one/cert-127.0.0.1.pem", "--key", "two/key.pem"
    )
    done.refused(5, "not the key of the certificate")


def test_a_name_that_differs_from_where_it_listens(quicdist: Command) -> None:
    port = free_port()
    name = f"{port}@127.0.0.1"
    with quicdist.node("listen", name, "--listen", f"0.0.0.0:{port}", "-n", "1") as (up, process):
        assert up == name
        assert quicdist("send", name, "quicdist", "hello").code == 0
        assert process.communicate(timeout=PATIENCE)[0] == "hello\n"


# -- cert ---------------------------------------------------------------------------------------


def test_cert_made_kept_and_shown(quicdist: Command) -> None:
    quicdist("cert", "show").refused(5, "quicdist cert make")
    made = quicdist("cert", "make", "10.0.0.7", "node.example")
    assert made.code == 0, made
    assert "good for     10.0.0.7, node.example\n" in made.out
    key = quicdist.home / "state" / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    shown = quicdist("cert", "show")
    assert (shown.code, shown.err) == (0, "")
    assert "fingerprint  sha256:" in shown.out
    assert shown.out.count("good for     10.0.0.7, node.example\n") == 2
    assert quicdist("cert", "make", "10.0.0.8").code == 0
    assert "10.0.0.8" in quicdist("cert", "show", "state/cert-10.0.0.8.pem").out
    assert key.read_bytes() == before
    quicdist("cert", "make", "not a host").refused(2, "invalid host")


def test_cert_show_after_client_commands_alone(quicdist: Command, calc: str) -> None:
    assert quicdist("ping", calc).code == 0
    shown = quicdist("cert", "show")
    assert shown.code == 0, shown
    assert "key.pem\nfingerprint  sha256:" in shown.out
    made = quicdist("cert", "make").out
    assert shown.out.splitlines()[-1] in made, "the key that peers pin is the same"


def test_cert_show_of_several(quicdist: Command) -> None:
    for name in ("former", "new"):
        assert quicdist("cert", "ca", "--dir", name, "--name", name).code == 0
    both = [(quicdist.home / name / "ca.pem").read_text() for name in ("former", "new")]
    (quicdist.home / "ca.pem").write_text("".join(both))
    shown = quicdist("cert", "show", "ca.pem").out
    assert "certificate  ca.pem, 1 of 2\nsubject      CN=former" in shown
    assert "certificate  ca.pem, 2 of 2\nsubject      CN=new" in shown


def test_cert_that_is_none(quicdist: Command) -> None:
    (quicdist.home / "junk").write_text("junk")
    quicdist("cert", "show", "junk").refused(5, "no PEM certificate")
    quicdist("cert", "show", "nowhere").refused(5, "No such file")
    quicdist("cert", "make", "--dir", "junk/dir").refused(5, "junk")


def test_cert_that_has_expired(quicdist: Command) -> None:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "old")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2021, 1, 1))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    old = quicdist.home / "old.pem"
    old.write_bytes(certificate.public_bytes(Encoding.PEM) + pem)
    shown = quicdist("cert", "show", "old.pem")
    assert "until        2021-01-01" in shown.out
    shown.refused(1, "not valid at this time")
    quicdist("listen", "0@127.0.0.1", "--cert", "old.pem").refused(5, "expired on 2021-01-01")


# -- names --------------------------------------------------------------------------------------


class _Directory:
    """An EPMD with two nodes."""

    async def register(self, node: NodeInfo) -> int:
        return 1

    def unregister(self, node: NodeInfo) -> None:
        pass

    async def look_up(self, name: str) -> NodeInfo | None:
        return None

    def nodes(self) -> list[NodeInfo]:
        return [NodeInfo("one", 4001), NodeInfo("5555@127.0.0.1", 4002)]


async def test_names(quicdist: Command) -> None:
    import asyncio

    server = await EpmdServer.open("127.0.0.1", 0, _Directory())
    try:
        port = str(server.local_address[1])
        done = await asyncio.to_thread(quicdist, "names", "--port", port)
        other = await asyncio.to_thread(quicdist, "names", env={"ERL_EPMD_PORT": port})
    finally:
        await server.close()
    assert (done.code, done.out) == (0, "one 4001\n5555@127.0.0.1 4002\n")
    assert other == done


def test_names_where_the_port_goes(quicdist: Command) -> None:
    quicdist("names", "127.0.0.1:5555").refused(2, "names 127.0.0.1 --port 5555")
    quicdist("names", "--timeout", "1", "::1", "--port", "1").refused(3, "no EPMD answers")


def test_names_of_nobody(quicdist: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # without listening
        port = str(taken.getsockname()[1])
        quicdist("names", "--port", port).refused(
            3, "no EPMD answers", "(connection refused)", "epmd -daemon"
        )


# -- gateway ------------------------------------------------------------------------------------


def test_gateway_writes_its_module(quicdist: Command) -> None:
    done = quicdist("gateway", "--emit-module", "--module-dir", "erl")
    assert done.code == 0, done
    assert (quicdist.home / "erl" / "quicdist_epmd.erl").exists()
    compiled = (quicdist.home / "erl" / "quicdist_epmd.beam").exists()
    assert compiled == (shutil.which("erl") is not None)
    assert "quicdist_epmd.erl" in done.out
    assert ("quicdist_epmd.beam" in done.out) == compiled
    assert ("compiled by OTP" in done.out) == compiled
    (quicdist.home / "file").write_text("")
    done = quicdist("gateway", "--emit-module", "--module-dir", "file/erl")
    done.refused(5, "cannot write")


@pytest.mark.erlang
def test_gateway_for_an_erlang_node(quicdist: Command) -> None:
    name = f"{free_port()}@127.0.0.1"
    arguments = ("gateway", name, "--epmd-port", "0", "--emit-module", "--module-dir", "erl")
    with quicdist.started(*arguments, "--dial", "*@10.*") as process:
        assert process.stdout is not None
        emitted = [process.stdout.readline() for _ in range(2)]
        assert "for nodes of OTP" in emitted[1]
        lines = ["", *(process.stdout.readline() for _ in range(3))]
        assert lines[1] == f"gateway for {name} is up\n"
        # The printed command starts the node.
        words = lines[2].split(": ", 1)[1].replace("'", "").split()
        assert words[1] == "erl"
        port = words[0].removeprefix("ERL_EPMD_PORT=")
        erl = [str(quicdist.home / "erl") if word == "erl" else word for word in words[2:]]
        assert "~/.erlang.cookie" in lines[3]
        assert "-setcookie" in lines[3]
        cookie = quicdist.environment["QUICDIST_COOKIE"]
        os.environ["ERL_EPMD_PORT"] = port
        try:
            erlang = Erlang(*erl, "-setcookie", cookie)
        finally:
            del os.environ["ERL_EPMD_PORT"]
        with erlang:
            erlang.eval("[].")
            assert quicdist("ping", name).out == "pong\n"
            assert quicdist("names", "--port", port).out.startswith(f"{name} ")
            # The gateway does not dial nodes that are not in its list.
            assert erlang.eval("atom_to_list(net_adm:ping('4433@127.0.0.9')).") == b"pang"
        done = end(process)
    assert done.code == 0
    assert "Traceback" not in done.err
    assert "the settings do not permit a connection to it" in done.err


def test_a_gateway_shows_its_metrics_to_prometheus(quicdist: Command) -> None:
    pytest.importorskip("prometheus_client")
    name = f"{free_port()}@127.0.0.1"
    with quicdist.started("gateway", name, "--epmd-port", "0", "--prometheus", "0") as process:
        assert process.stderr is not None
        address = next(line.split()[-1] for line in process.stderr if "metrics are at" in line)
        with urllib.request.urlopen(address) as answer:
            text = answer.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(address.replace("/metrics", "/readyz"))
        assert f'quicdist_registered{{node="{name}"}} 0.0' in text
        port = address.rpartition(":")[2].partition("/")[0]
        again = quicdist("gateway", f"{free_port()}@127.0.0.1", "--epmd-port", "0", "--http", port)
        assert again.code == 5
        assert f"quicdist: --http {port}: Address already in use" in again.err
        assert end(process).code == 0


# -- demo and help ------------------------------------------------------------------------------


@pytest.mark.erlang
def test_demo(quicdist: Command) -> None:
    del quicdist.environment["QUICDIST_COOKIE"]
    done = quicdist("demo")
    assert done.code == 0, done
    assert done.err == ""
    for seen in ("ALPN", "TLS_", "UDP ports", "net_adm:ping", "erpc:call", "monitors", "All 14"):
        assert seen in done.out
    assert not (quicdist.home / ".erlang.cookie").exists()


def test_demo_without_erlang(quicdist: Command) -> None:
    path = quicdist.home / "bin"
    path.mkdir()
    done = quicdist("demo", env={"PATH": str(path)})
    assert done.code == 0, done
    assert "apt-get install erlang" in done.out
    assert "Two Python nodes" in done.out
    assert "ALPN" in done.out


def test_help_and_usage(quicdist: Command) -> None:
    shown = quicdist("--help")
    assert shown.code == 0
    assert "Exit codes" in shown.out
    for command in ("ping", "call", "send", "listen", "run", "names", "cert", "gateway", "demo"):
        assert command in shown.out
        assert quicdist(command, "--help").code == 0
    assert quicdist("--version").out.startswith("quicdist ")
    assert quicdist().code == 2
    quicdist("pong").refused(2, "pong")
    quicdist("ping").refused(2, "NODE", "quicdist ping --help")
    quicdist("ping", "1@127.0.0.1", "--no-such").refused(2, "--no-such")
    quicdist("ping", "1@127.0.0.1", "--timeout", "soon").refused(2, "--timeout")


def test_output_that_nobody_reads(quicdist: Command, tmp_path: Path) -> None:
    import subprocess
    import sys

    program = f"{sys.executable} -m quicdist --help | true"
    done = subprocess.run(
        program, shell=True, capture_output=True, env=quicdist.environment, timeout=PATIENCE
    )
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr
