"""The Erlang module that a BEAM node is given: where it is, and how to write it out."""

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
"""OTP 27 prints warnings of its own on standard output, before or behind it."""


class EmitError(QuicdistError):
    """The module cannot be written or compiled; the text says why."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """What was written."""

    source: Path
    beam: Path | None
    """None where there is no Erlang to compile with; `erlc -o DIR SOURCE` does it later."""
    otp: str | None = None
    """The OTP release that has compiled it, as `25`. The .beam is for nodes of that release."""

    @property
    def directory(self) -> Path:
        """What `-pa` is given."""
        return self.source.parent


def module_source() -> str:
    """The module's Erlang source."""
    return importlib.resources.files(__package__).joinpath(_SOURCE).read_text("utf-8")


def emit_module(directory: Path | str, *, erl: str | None = "erl") -> Emitted:
    """Write `quicdist_epmd.erl` into `directory`, and its .beam where `erl` is found.

    A node loads the .beam alone, and OTP promises that only for the release that has compiled
    it: OTP 29 does not start with a module of OTP 25. So it is `erl` itself, the one that is to
    run the node, that compiles. Raises EmitError.
    """
    place = Path(directory)
    source, beam = place / _SOURCE, place / f"{MODULE}.beam"
    try:
        place.mkdir(parents=True, exist_ok=True)
        source.write_text(module_source(), "utf-8")
    except OSError as error:
        raise EmitError(f"{source} cannot be written: {error.strerror or error}") from None
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
        raise EmitError(f"{program} does not compile {source}: {said}")
    return Emitted(source, beam, otp[1])


def gateway_port(name: str) -> int:
    """Where the module of this node asks when the environment says nothing: the same rule as in
    the module."""
    alive = name.partition("@")[0]
    is_port = alive.isascii() and alive.isdigit() and 0 < int(alive) < 65536
    return int(alive) if is_port else DEFAULT_PORT


def erl_arguments(directory: Path | str, *, proto_dist: str = "inet_tcp") -> list[str]:
    """What `erl` is to be given besides its name and cookie.

    The last ones bind the node's own port to loopback, where the gateway asks for it: 127.0.0.1
    also for `inet6_tcp`, by the IPv6 address that stands for it (RFC 4291, 2.5.5.2).
    """
    return [
        *("-start_epmd", "false", "-epmd_module", MODULE, "-pa", str(directory)),
        *(() if proto_dist == "inet_tcp" else ("-proto_dist", proto_dist)),
        *("-kernel", "inet_dist_use_interface", _LOOPBACK[proto_dist]),
    ]
