"""The running node of `quicdist listen` and `quicdist run`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quicdist.cli import reloading, systemd
from quicdist.cli.json_output import json_value, print_object
from quicdist.cli.running import stdin_closed
from quicdist.cli.sanitize import sanitized_term
from quicdist.etf import Term
from quicdist.etf.notation import format_term

if TYPE_CHECKING:
    from quicdist.node.node import Node


@dataclass(frozen=True, slots=True)
class Output:
    """How the command writes to standard output."""

    is_json: bool
    is_quiet: bool

    def up(self, node: Node) -> None:
        """The first line, for scripts that wait for it."""
        if self.is_quiet:
            return
        if self.is_json:
            print_object({"status": "up", "node": node.name})
        else:
            print(f"{node.name} is up", flush=True)

    def message(self, node: Node, message: Term) -> None:
        """A message that was received."""
        text = sanitized_term(format_term(message, node=node.name))
        if self.is_json:
            value = json_value(message, node.name)
            print_object({"status": "message", "message": text, "value": value})
        else:
            print(text, flush=True)


@dataclass(slots=True)
class StopConditions:
    """The conditions that end `quicdist run`, besides a signal."""

    drain: float
    """Seconds."""

    ends_with_stdin: bool
    watched: Mapping[Path, int] | None
    """The source files and their times when they were read; None if a change does not end it."""
    changed: Path | None = None
    """The source file that ended it."""

    async def wait(self) -> None:
        """Waits for the end of standard input, or for a changed file."""
        ends: list[asyncio.Future[Path | None]] = []
        if self.ends_with_stdin:
            ends.append(asyncio.ensure_future(stdin_closed()))
        if self.watched is not None:
            # Modules that were imported later are watched from now on.
            times = {**reloading.times(reloading.loaded_sources()), **self.watched}
            ends.append(asyncio.ensure_future(reloading.changed(times)))
        if not ends:
            await asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        self.changed = next((one.result() for one in ends if one.done()), None)


async def print_messages(
    up: AbstractAsyncContextManager[Node], output: Output, register: str, count: int | None
) -> None:
    """Prints messages to the registered process, `count` or without end."""
    async with up as node, node.mailbox(register) as me:
        output.up(node)
        while count is None or count > 0:
            output.message(node, await me.receive())
            count = count - 1 if count is not None else None


async def serve(
    up: AbstractAsyncContextManager[Node], output: Output, conditions: StopConditions
) -> None:
    """Runs the node until one of the conditions ends it, and drains it."""
    async with up as node:
        output.up(node)
        try:
            await conditions.wait()
        finally:
            systemd.notify(systemd.STOPPING)
            # A second signal cancels the drain too.
            if conditions.drain > 0:
                await node.drain(conditions.drain)
