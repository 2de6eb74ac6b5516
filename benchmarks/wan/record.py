"""The results of the wide-area benchmark as a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path as File
from typing import Any

from benchmarks.wan.network import Path


@dataclass
class Record:
    """The results of one or several runs. A later result replaces that of an earlier run."""

    file: File
    about: str
    """The machine and the settings of the last run."""
    results: dict[tuple[Path, str], Mapping[str, float]] = field(default_factory=dict)
    """The figures by path and candidate."""

    @classmethod
    def read(cls, file: File, about: str | None = None) -> Record:
        """Returns the results of a file, or an empty record if it does not exist."""
        known: dict[str, Any] = {"about": "", "results": []}
        if file.exists():
            known = json.loads(file.read_text())
        record = cls(file, known["about"] if about is None else about)
        for one in known["results"]:
            record.add(Path(**one["path"]), one["candidate"], one["figures"])
        return record

    def add(self, path: Path, candidate: str, figures: Mapping[str, float]) -> None:
        """Adds the figures of one candidate on one path."""
        self.results[path, candidate] = figures

    def write(self) -> None:
        """Writes the file, one line for each result."""
        lines = [
            json.dumps({"path": asdict(path), "candidate": candidate, "figures": dict(figures)})
            for (path, candidate), figures in self.results.items()
        ]
        results = ",\n".join(lines)
        self.file.write_text(f'{{"about": {json.dumps(self.about)}, "results": [\n{results}\n]}}\n')
