"""The Erlang module for BEAM nodes: its source, and how to write and compile it."""

from __future__ import annotations

import importlib.resources
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from quicdist.carriers.epmd import DEFAULT_PORT
from quicdist.errors import QuicdistError

MODULE = "quicdist_epmd"
_SOURCE = f"{MODULE}.erl"

_LOOPBACK = {"inet_tcp": "{127,0,0,1}", "inet6_tcp": "{0,0,0,0,0,65535,32512,1}"}

_COMPILE = """
try
    [Source] = init:get_plain_arguments(),
    {ok, _} = compile:file(Source, [report]),
    io:format("compiled by OTP ~s~n", [erlang:system_info(otp_release)]),
    halt(0)
catch Class:Reason -> io:format("~p:~tp~n", [Class, Reason]), halt(1) end.
"""
_OTP = re.compile(r"compiled by OTP (\S+)")
"""OTP 27 may print warnings before and after this on standard output."""


class EmitError(QuicdistError):
    """The Erlang module cannot be written or compiled. The text gives the reason."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """The files that `emit_module` has written."""

    source: Path
    beam: Path | None
    """None if no Erlang was found. Compile it with `erlc -o DIR SOURCE`."""
    otp: str | None = None
    """The OTP release that compiled the module, such as `25`. Use the .beam with this release."""

    @property
    def directory(self) -> Path:
        """The directory to pass to `erl` with `-pa`."""
        return self.source.parent


def module_source() -> str:
    """Returns the Erlang source of the module."""
    return importlib.resources.files(__package__).joinpath(_SOURCE).read_text("utf-8")


def emit_module(directory: Path | str, *, erl: str | None = "erl") -> Emitted:
    """Writes `quicdist_epmd.erl` to `directory`, and the .beam file if `erl` is found.

    A .beam file is only guaranteed to load in the OTP release that compiled it: OTP 29 does not
    start with a module compiled by OTP 25. Therefore pass the `erl` that runs the node.

    Raises EmitError if the module cannot be written or compiled.
    """
    place = Path(directory)
    source, beam = place / _SOURCE, place / f"{MODULE}.beam"
    try:
        place.mkdir(parents=True, exist_ok=True)
        source.write_text(module_source(), "utf-8")
    except OSError as error:
        raise EmitError(f"cannot write {source}: {error.strerror or error}") from None
    program = shutil.which(erl) if erl else None
    if program is None:
        return Emitted(source, None)
    compiled = subprocess.run(
        [program, "-noinput", "-boot", "no_dot_erlang", "-eval", _COMPILE, "-extra", _SOURCE],
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    otp = _OTP.search(compiled.stdout)
    if compiled.returncode != 0 or otp is None:
        said = " ".join(f"{compiled.stdout} {compiled.stderr}".split())
        raise EmitError(f"{program} cannot compile {source}: {said}")
    return Emitted(source, beam, otp[1])


def gateway_port(name: str) -> int:
    """Returns the loopback port that the Erlang module of a node connects to by default.

    The environment variables of the module take precedence over it.
    """
    alive = name.partition("@")[0]
    is_port = alive.isascii() and alive.isdigit() and 0 < int(alive) < 65536
    return int(alive) if is_port else DEFAULT_PORT


def erl_arguments(directory: Path | str, *, proto_dist: str = "inet_tcp") -> list[str]:
    """Returns the arguments of `erl` that the gateway requires, without name and cookie.

    They bind the distribution port of the node to loopback, where the gateway connects to it. For
    `inet6_tcp` this is the IPv4-mapped IPv6 address of 127.0.0.1 (RFC 4291, 2.5.5.2).
    """
    return [
        *("-start_epmd", "false", "-epmd_module", MODULE, "-pa", str(directory)),
        *(() if proto_dist == "inet_tcp" else ("-proto_dist", proto_dist)),
        *("-kernel", "inet_dist_use_interface", _LOOPBACK[proto_dist]),
    ]
