"""Erlang and Elixir nodes that run a script, which prints what the test waits for."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.support.waiting import PATIENCE


@contextmanager
def waiting_node(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Runs a node that prints `up` and waits, until the block ends."""
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:
        try:
            assert node.stdout is not None
            assert node.stdout.readline() == "up\n"
            yield
        finally:
            node.kill()


def check_all_is_well(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Runs a node to its end, which prints `all is well` after its assertions."""
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == "all is well\n", done.stdout + done.stderr
