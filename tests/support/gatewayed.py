"""Stock Erlang nodes behind gateways, for tests.

with GatewayThread() as gateway, gatewayed_erl(gateway, cookie="c") as erlang:
    erlang.eval("atom_to_list(net_adm:ping('5556@127.0.0.1')).")
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from quicdist.carriers.trust import Identity, Trust
from quicdist.gateway import Gateway, GatewaySettings, emit_module, erl_arguments
from tests.support.closing import Closing
from tests.support.erlang import ERL, Erlang
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE


@functools.cache
def module_directory() -> Path:
    """Returns the folder of the compiled Erlang module; created once, removed at exit."""
    keeper = tempfile.TemporaryDirectory(prefix="quicdist-epmd-")
    _keepers.append(keeper)
    emitted = emit_module(keeper.name, erl=ERL)
    assert emitted.beam is not None, "no erl on the PATH: sudo apt-get install erlang-base"
    return emitted.directory


_keepers: list[tempfile.TemporaryDirectory[str]] = []


def loopback_settings(name: str | None = None) -> GatewaySettings:
    """Returns a gateway on free ports with a temporary certificate.

    It verifies no peers, because it outlives the tests, whose nodes reuse names with other keys.
    """
    return GatewaySettings(
        name or f"{free_port()}@127.0.0.1",
        epmd_port=0,
        identity=Identity.ephemeral(["127.0.0.1"]),
        trust=Trust.nothing(),
    )


class GatewayThread(Closing):
    """A gateway on an event loop in a separate thread, for tests without asyncio."""

    def __init__(self, settings: GatewaySettings | str | None = None) -> None:
        """Uses free ports unless they are given."""
        chosen = settings if isinstance(settings, GatewaySettings) else loopback_settings(settings)
        self.name = chosen.name
        self.epmd_port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"gateway {self.name}")
        self._thread.start()
        try:
            self.gateway: Gateway = self._call(_started(chosen))
        except BaseException:
            self._stop_loop()
            raise
        self.epmd_port = self.gateway.epmd_port

    def close(self) -> None:
        """Stops it as SIGTERM does."""
        if self._loop.is_closed():
            return
        try:
            self._call(self.gateway.close())
        finally:
            self._stop_loop()

    def _call(self, coroutine: object) -> Gateway:
        assert asyncio.iscoroutine(coroutine)
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        result: Gateway = future.result(PATIENCE)
        return result

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _started(settings: GatewaySettings) -> Gateway:
    gateway = Gateway(settings)
    await gateway.start()
    return gateway


_PROCESS = """
import asyncio, json, logging, sys
from quicdist.gateway import GatewaySettings, run
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
def started(gateway):
    print(json.dumps({"epmd_port": gateway.epmd_port}), flush=True)
asyncio.run(run(GatewaySettings(sys.argv[1], epmd_port=int(sys.argv[2])), started=started))
"""


class GatewayProcess(Closing):
    """A gateway in a separate process that tests can kill."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name or f"{free_port()}@127.0.0.1"
        self._state = tempfile.TemporaryDirectory(prefix="quicdist-state-")
        self.epmd_port = 0
        self._start()

    def restart(self) -> None:
        """Restarts it with the same ports and key."""
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROCESS, self.name, str(self.epmd_port)],
            stdout=subprocess.PIPE,
            env={**os.environ, "QUICDIST_STATE_DIR": self._state.name},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the gateway did not start"
        self.epmd_port = json.loads(line)["epmd_port"]

    @property
    def os_pid(self) -> int:
        """The process id of the operating system."""
        return self._process.pid

    def kill(self) -> None:
        """Kills it with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Stops it with SIGTERM and waits."""
        self._process.terminate()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._state.cleanup()


def gatewayed_erl(
    gateway: GatewayThread | GatewayProcess,
    *args: str,
    cookie: str = "gatewayed",
    told_port: bool = True,
    name: str | None = None,
    proto_dist: str = "inet_tcp",
) -> Erlang:
    """Starts a stock `erl` under the gateway's node name; it is registered on return.

    `name` selects another node name on this host. Without `told_port`, the node has to find the
    gateway by name.
    """
    erlang = Erlang(
        *("-name", name or gateway.name, "-setcookie", cookie),
        *erl_arguments(module_directory(), proto_dist=proto_dist),
        *(("-epmd_port", str(gateway.epmd_port)) if told_port else ()),
        *args,
    )
    erlang.eval("[].")
    return erlang


@contextlib.contextmanager
def two_gatewayed_nodes(
    *args: str, cookie: str = "gatewayed"
) -> Iterator[tuple[tuple[GatewayThread, Erlang], tuple[GatewayThread, Erlang]]]:
    """Yields two stock nodes with a gateway each: ((gateway, erl), (gateway, erl))."""
    with contextlib.ExitStack() as stack:
        pairs = []
        for _ in range(2):
            gateway = stack.enter_context(GatewayThread())
            pairs.append(
                (gateway, stack.enter_context(gatewayed_erl(gateway, *args, cookie=cookie)))
            )
        yield pairs[0], pairs[1]
