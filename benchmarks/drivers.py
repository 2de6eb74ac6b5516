"""Questions to the processes of a benchmark, which answer with lines of JSON."""

from __future__ import annotations

import json
import subprocess
from typing import Any


class Absent(Exception):
    """A candidate or a path cannot be measured on this machine; the text says why."""


def hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Reads a line of a process as JSON. Raises Absent if it ended or printed anything else."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Absent(f"the process ended with {process.wait()}")
    try:
        answer: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        raise Absent(f"unexpected output: {line.strip()[:200]}") from None
    return answer


def ask(process: subprocess.Popen[str], what: str, number: float) -> dict[str, Any]:
    """Returns the answer of a driver. Raises Absent if there is none."""
    assert process.stdin is not None
    try:
        process.stdin.write(f"{what} {number}\n")
        process.stdin.flush()
    except BrokenPipeError:
        raise Absent(f"the process ended with {process.wait()}") from None
    return hear(process)
