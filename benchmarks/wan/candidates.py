"""The candidates of the comparisons: quicdist and stock Erlang over TCP and TLS."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from benchmarks.drivers import Absent, hear
from benchmarks.erlang_tls import tls_options
from benchmarks.wan.network import HERE, THERE, Spaces
from benchmarks.wan.sides import Sides, start_ours

_DIST_PORT = "4399"
_AVAILABLE = File("/proc/sys/net/ipv4/tcp_available_congestion_control")


Start = Callable[[Sides, Spaces, str], subprocess.Popen[str]]
"""Starts both ends, with a directory for files; returns the driver."""


@dataclass(frozen=True)
class Candidate:
    name: str
    start: Start


def ours(**settings: Any) -> Start:
    def start(sides: Sides, spaces: Spaces, directory: str) -> subprocess.Popen[str]:
        return start_ours(sides, spaces, settings)

    return start


def erlang(congestion: str = "", *, tls: bool = False) -> Start:
    def start(sides: Sides, spaces: Spaces, directory: str) -> subprocess.Popen[str]:
        if shutil.which("erlc") is None:
            raise Absent("there is no Erlang")
        if congestion and congestion not in _AVAILABLE.read_text().split():
            raise Absent(f"this kernel has no TCP congestion control {congestion!r}")
        source = str(File(__file__).with_name("wan_side.erl"))
        subprocess.run(["erlc", "-o", directory, source], check=True)
        options = _tcp_options(congestion) if congestion else []
        options += _tls_options(directory) if tls else []
        server = _erl(sides, spaces.there, THERE, directory, options, ["serve"])
        name = hear(server)["name"]
        driver = _erl(sides, spaces.here, HERE, directory, options, ["drive", name])
        hear(driver)
        return driver

    return start


def _tcp_options(congestion: str) -> list[str]:
    """TCP_CONGESTION (13) of IPPROTO_TCP (6), for connections made and accepted."""
    option = f'[{{raw,6,13,<<"{congestion}">>}}]'
    return [
        "-kernel",
        "inet_dist_connect_options",
        option,
        "-kernel",
        "inet_dist_listen_options",
        option,
    ]


def _tls_options(directory: str) -> list[str]:
    try:
        return tls_options(directory)
    except LookupError as error:
        raise Absent(str(error)) from None


def _erl(
    sides: Sides,
    space: str,
    host: str,
    directory: str,
    options: Sequence[str],
    what: Sequence[str],
) -> subprocess.Popen[str]:
    """Starts Erlang with a fixed port and without epmd, which would outlive it."""
    words = ["erl", "-noshell", "-name", f"wan@{host}", "-setcookie", "benchmark", "-pa", directory]
    words += ["-start_epmd", "false", "-erl_epmd_port", _DIST_PORT, "-connect_all", "false"]
    return sides.start(space, *words, *options, "-run", "wan_side", *what)
