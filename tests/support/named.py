"""Stock Erlang nodes started with `erl -name`: TCP distribution and a separate EPMD."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time

from tests.support.closing import Closing
from tests.support.erlang import Erlang
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE


class RealEpmd(Closing):
    """OTP's epmd on loopback only."""

    def __init__(self, port: int | None = None, addresses: str = "127.0.0.1") -> None:
        self.port = port or free_port()
        self._addresses = addresses
        self.start()

    def start(self) -> None:
        """Starts it, also after a `close`."""
        self._process = subprocess.Popen(
            ["epmd", "-port", str(self.port), "-address", self._addresses],
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert time.monotonic() < deadline, "epmd did not start"
            time.sleep(0.01)

    def close(self) -> None:
        """Kills it with SIGKILL."""
        self._process.kill()
        self._process.wait()


def named_erl(name: str, epmd: RealEpmd, *args: str, cookie: str, form: str = "-name") -> Erlang:
    """Yields a registered stock node on loopback only."""
    erlang = Erlang(
        *(form, name, "-setcookie", cookie, "-start_epmd", "false"),
        *("-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
        *args,
        env={"ERL_EPMD_PORT": str(epmd.port)},
    )
    erlang.eval("[].")
    return erlang
