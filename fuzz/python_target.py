"""Fuzzes one of fuzz.targets with atheris.

python -m fuzz.python_target NAME [LIBFUZZER OPTIONS]
python -m fuzz.python_target NAME --seeds DIR    writes the seed corpus instead
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["quicdist"]):
    from fuzz.targets import load

    TARGET = load(sys.argv[1])


def write_seeds(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for place, seed in enumerate(TARGET.seeds()):
        (folder / str(place)).write_bytes(seed)


if __name__ == "__main__":
    if sys.argv[2:3] == ["--seeds"]:
        write_seeds(Path(sys.argv[3]))
    else:
        atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGET.check)
        atheris.Fuzz()
