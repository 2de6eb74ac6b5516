"""The peers that the harness starts and stops, one class for each kind of node.

A peer is one or two processes with a log file and a control connection. The harness downloads and
builds nothing: a third-party carrier is a list of folders with compiled code.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interop.control import HOST, Control, PeerGone
from quicdist.etf import Term
from quicdist.gateway import emit_module, erl_arguments
from tests.support.ports import free_port

START_TIMEOUT = 60.0
"""Seconds until a peer must have started; only a hang takes so long."""

LEAVE_TIMEOUT = 10.0
"""Seconds until a peer must have exited after a stop request."""

_MODULE = Path(__file__).with_name("erlang") / "quicdist_interop.erl"


class CannotStart(Exception):
    """A peer did not start; the text is one line, the log has details."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The environment of a peer."""

    name: str
    """The peer's node name, `port@ip`."""

    cookie: str
    others: Sequence[str]
    """Names of the nodes that it may dial."""

    ticktime: int
    """net_ticktime, in seconds."""

    directory: Path
    """The peer's own folder, for its input and output files."""

    certificate: Path
    key: Path


class Peer(abc.ABC):
    """A node that can be started and stopped repeatedly under one name."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._processes: list[asyncio.subprocess.Process] = []
        self._control: Control | None = None

    @property
    def name(self) -> str:
        """The node name."""
        return self.setting.name

    @property
    def is_down(self) -> bool:
        """Whether the peer is not started, or was killed."""
        return self._control is None

    @property
    def log(self) -> Path:
        """The log file of the processes' output."""
        return self.setting.directory / "log"

    async def start(self) -> None:
        """Starts the peer and waits until it reports that it is up. Raises CannotStart."""
        connected: asyncio.Future[Control] = asyncio.get_running_loop().create_future()

        def arrived(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not connected.done():
                connected.set_result(Control(reader, writer))

        server = await asyncio.start_server(arrived, HOST, 0)
        try:
            await self.launch(server.sockets[0].getsockname()[1])
            last = self._processes[-1]
            ended = asyncio.ensure_future(last.wait())
            both: list[asyncio.Future[Any]] = [connected, ended]
            await asyncio.wait(both, timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            if not connected.done():
                raise CannotStart(f"{self.name} did not start: {self.log_tail()}")
            self._control = connected.result()
            await self._control.hello()
        except PeerGone:
            raise CannotStart(f"{self.name} exited: {self.log_tail()}") from None
        finally:
            # No wait_closed(): from Python 3.12 on it also waits for the connection just accepted.
            server.close()

    @abc.abstractmethod
    async def launch(self, control_port: int) -> None:
        """Starts the processes, which connect to `control_port`."""

    async def ask(self, function: str, *args: Term) -> Term:
        """Calls a function of the harness code on the peer. Raises PeerError."""
        if self._control is None:
            raise PeerGone("the peer is not running")
        return await self._control.ask(function, args)

    async def kill(self) -> None:
        """Kills all processes of the peer at once with SIGKILL."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
        for process in self._processes:
            await process.wait()
        self._processes.clear()
        if self._control is not None:
            await self._control.close()
            self._control = None

    async def leave(self) -> None:
        """Stops the peer, cleanly if it supports that."""
        if self._control is not None:
            await self._control.close()
        waits = [asyncio.ensure_future(process.wait()) for process in self._processes]
        if waits:
            await asyncio.wait(waits, timeout=LEAVE_TIMEOUT)
        await self.kill()

    def log_tail(self) -> str:
        """Returns the end of the log in one line."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return " / ".join(lines[-3:])[-400:] or "no output"

    @property
    def _state(self) -> Mapping[str, str]:
        """Environment with a state folder for this peer only, which holds its known keys."""
        return {"QUICDIST_STATE_DIR": str(self.setting.directory / "state")}

    async def run(self, *command: str, env: Mapping[str, str] | None = None) -> None:
        """Starts a process with its output in the log. Raises CannotStart."""
        with self.log.open("ab") as log:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.setting.directory,
                    env={**os.environ, **self._state, **(env or {})},
                )
            except OSError as error:
                raise CannotStart(f"{command[0]}: {error.strerror or error}") from None
        self._processes.append(process)


class PythonPeer(Peer):
    """A quicdist node in another Python process."""

    async def launch(self, control_port: int) -> None:
        """One process."""
        setting = self.setting
        arguments = (setting.name, setting.cookie, str(control_port), str(setting.ticktime))
        files = (str(setting.certificate), str(setting.key))
        await self.run(
            *(sys.executable, "-m", "interop.python_peer", *arguments, *files),
            env={"PYTHONPATH": os.pathsep.join(_python_path())},
        )


class ErlangPeer(Peer):
    """An Erlang/OTP node; subclasses choose its distribution carrier."""

    erl = "erl"
    """The path of `erl`."""

    async def launch(self, control_port: int) -> None:
        """One process."""
        await self.run_erl(control_port)

    @abc.abstractmethod
    def arguments(self) -> Sequence[str]:
        """Returns Erlang code that starts distribution, evaluated before the harness code."""

    async def run_erl(self, control_port: int) -> None:
        """Starts erl and compiles the harness code in it."""
        half = (
            f"{{ok, M, B}} = compile:file({_erlang_string(str(_MODULE))}, [binary]), "
            f"{{module, M}} = code:load_binary(M, atom_to_list(M), B), "
            f"spawn(fun() -> M:main({control_port}) end)."
        )
        setting = self.setting
        await self.run(
            *(self.erl, "-noinput", "-setcookie", setting.cookie),
            *("-kernel", "net_ticktime", str(setting.ticktime)),
            *self.arguments(),
            *("-eval", half),
        )


class GatewayedPeer(ErlangPeer):
    """A stock node behind `quicdist gateway`."""

    async def launch(self, control_port: int) -> None:
        """Starts the gateway process, then the node."""
        await asyncio.to_thread(emit_module, self._module_directory, erl=self.erl)
        self._epmd_port = free_port()
        await self.run(
            *(sys.executable, "-c", "from quicdist.cli import main; main()"),
            *("gateway", self.name),
            *("--epmd-port", str(self._epmd_port), "-v"),
            *("--cert", str(self.setting.certificate), "--key", str(self.setting.key)),
            env={"PYTHONPATH": os.pathsep.join(_python_path())},
        )
        await _accepting(self._epmd_port, self)
        await self.run_erl(control_port)

    def arguments(self) -> Sequence[str]:
        """Uses TCP distribution with the gateway as EPMD."""
        return [
            *("-name", self.name),
            *erl_arguments(self._module_directory),
            *("-epmd_port", str(self._epmd_port)),
        ]

    @property
    def _module_directory(self) -> Path:
        return self.setting.directory / "epmd"


class CompiledPeer(ErlangPeer):
    """A node with a third-party carrier, from folders with compiled code."""

    def __init__(self, setting: Setting, ebins: Sequence[Path]) -> None:
        super().__init__(setting)
        self._ebins = ebins

    def paths(self) -> list[str]:
        """Returns `-pa` options for the folders."""
        return ["-pa", *map(str, self._ebins)]

    def net_kernel_start(self) -> str:
        """Returns Erlang code that starts net_kernel, which ignores kernel's net_ticktime then."""
        options = f"#{{name_domain => longnames, net_ticktime => {self.setting.ticktime}}}"
        return f"{{ok, _}} = net_kernel:start('{self.name}', {options})"

    def cert(self) -> tuple[str, str]:
        """Returns the paths of the certificate and key as Erlang strings."""
        return _erlang_string(str(self.setting.certificate)), _erlang_string(str(self.setting.key))


class QuicDistPeer(CompiledPeer):
    """quic_dist on quicer: the name has the port and address; distribution starts after boot."""

    def arguments(self) -> Sequence[str]:
        """Sets the certificate in the application environment."""
        cert, key = self.cert()
        start = (
            f"ok = application:load(quic_dist), "
            f"ok = application:set_env([{{quic_dist, [{{cert, {cert}}}, {{key, {key}}}]}}]), "
            f"{{ok, _}} = application:ensure_all_started(quic_dist), "
            f"{self.net_kernel_start()}."
        )
        return ["-proto_dist", "quic", "-no_epmd", *self.paths(), "-eval", start]


class MaculaDistPeer(CompiledPeer):
    """macula_dist on quicer: certificates are cert.pem and key.pem in one folder."""

    def arguments(self) -> Sequence[str]:
        """Sets the folder as a kernel parameter."""
        folder = self.setting.directory / "certs"
        folder.mkdir(exist_ok=True)
        shutil.copy(self.setting.certificate, folder / "cert.pem")
        shutil.copy(self.setting.key, folder / "key.pem")
        start = f"{{ok, _}} = application:ensure_all_started(quicer), {self.net_kernel_start()}."
        return [
            *("-proto_dist", "macula", "-no_epmd", *self.paths()),
            *("-kernel", "macula_dist_cert_dir", _erlang_string(str(folder))),
            *("-kernel", "logger_level", "warning"),
            *("-eval", start),
        ]


class ErlangQuicPeer(CompiledPeer):
    """The `quic` application's own distribution: a port beside the name, peers in a list."""

    def arguments(self) -> Sequence[str]:
        """Writes the list to a configuration file, which is read when the application is loaded.

        Distribution starts after boot: with `-name`, OTP 25 needs the certificate before it can
        read files.
        """
        cert, key = self.cert()
        port, _, _ = self.name.partition("@")
        nodes = ", ".join(_static_node(name) for name in self.setting.others)
        config = self.setting.directory / "peer.config"
        config.write_text(
            f"[{{quic, [{{dist, [{{cert_file, {cert}}}, {{key_file, {key}}}, "
            f"{{verify, verify_none}}, {{discovery_module, quic_discovery_static}}, "
            f"{{nodes, [{nodes}]}}]}}, {{dist_port, {port}}}]}}].\n"
        )
        start = (
            f"ok = application:load(quic), {{ok, _}} = application:ensure_all_started(crypto), "
            f"{self.net_kernel_start()}."
        )
        return [
            *("-proto_dist", "quic", "-epmd_module", "quic_epmd", "-start_epmd", "false"),
            *("-quic_dist_port", port, "-config", str(config.with_suffix(""))),
            *("-quic_dist_cert", str(self.setting.certificate)),
            *("-quic_dist_key", str(self.setting.key)),
            *self.paths(),
            *("-eval", start),
        ]


# -- what is here --------------------------------------------------------------------------------


def ebin_folders(text: str) -> list[Path]:
    """Returns the folders with compiled modules in `path[:path...]`.

    Each path is such a folder, or contains `ebin` or `*/ebin`, the layout of rebar3 and mix.
    Raises CannotStart for a path without compiled modules.
    """
    found: list[Path] = []
    for word in filter(None, text.split(os.pathsep)):
        path = Path(word).expanduser().absolute()
        if any(path.glob("*.beam")):
            folders = [path]
        else:
            candidates = [path / "ebin", *sorted(path.glob("*/ebin"))]
            folders = [folder for folder in candidates if any(folder.glob("*.beam"))]
        if not folders:
            raise CannotStart(f"{path}: no compiled modules in the folder or its ebin folders")
        found += folders
    return found


@functools.cache
def otp_release(erl: str) -> str | None:
    """Returns the OTP release of an erl; None if it does not run."""
    command = [erl, "-noinput", "-boot", "start_clean", "-eval"]
    command.append("io:put_chars(erlang:system_info(otp_release)), halt().")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.fullmatch(r"\s*(\d+)\s*", answer.stdout)
    return found[1] if found and answer.returncode == 0 else None


async def _accepting(port: int, peer: Peer) -> None:
    """Waits until a port accepts connections. Raises CannotStart."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_TIMEOUT
    while loop.time() < deadline:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return
    raise CannotStart(f"the gateway of {peer.name} did not start: {peer.log_tail()}")


def _python_path() -> list[str]:
    """Returns an environment in which a process finds this package and quicdist."""
    return [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]


def _static_node(name: str) -> str:
    port, _, host = name.partition("@")
    return f"{{'{name}', {{{_erlang_string(host)}, {port}}}}}"


def _erlang_string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
