"""The Erlang module that a BEAM node is given: where it is, and how to write it out."""

from __future__ import annotations

import importlib.resources
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from quicdist.errors import QuicdistError

MODULE = "quicdist_epmd"
_SOURCE = f"{MODULE}.erl"


class EmitError(QuicdistError):
    """The module cannot be written or compiled; the text says why."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """What was written."""

    source: Path
    beam: Path | None
    """None where there is no erlc to compile with; `erlc -o DIR SOURCE` does it later."""

    @property
    def directory(self) -> Path:
        """What `-pa` is given."""
        return self.source.parent


def module_source() -> str:
    """The module's Erlang source."""
    return importlib.resources.files(__package__).joinpath(_SOURCE).read_text("utf-8")


def emit_module(directory: Path | str, *, erlc: str | None = "erlc") -> Emitted:
    """Writes `quicdist_epmd.erl` into `directory`, and its .beam where `erlc` is to be found.

    A node loads the .beam alone; one compiled by an older OTP serves newer ones too.
    Raises EmitError.
    """
    place = Path(directory)
    source, beam = place / _SOURCE, place / f"{MODULE}.beam"
    try:
        place.mkdir(parents=True, exist_ok=True)
        source.write_text(module_source(), "utf-8")
    except OSError as error:
        raise EmitError(f"{source} cannot be written: {error.strerror or error}") from None
    program = shutil.which(erlc) if erlc else None
    if program is None:
        return Emitted(source, None)
    compiled = subprocess.run(
        [program, "-o", str(place), str(source)], capture_output=True, text=True, check=False
    )
    if compiled.returncode != 0:
        raise EmitError(f"{program} does not compile {source}: {compiled.stdout.strip()}")
    return Emitted(source, beam)


def erl_arguments(directory: Path | str) -> list[str]:
    """What `erl` is to be given besides its name and cookie.

    The last three bind the node's own port to loopback, where the gateway asks for it.
    """
    return [
        *("-start_epmd", "false", "-epmd_module", MODULE, "-pa", str(directory)),
        *("-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
    ]
