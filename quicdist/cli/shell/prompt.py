"""The shell on a terminal: history, completion, Ctrl-C. Needs prompt_toolkit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.patch_stdout import patch_stdout

from quicdist.cli.sanitize import sanitized
from quicdist.cli.shell import errors
from quicdist.cli.shell.names import Names
from quicdist.cli.shell.session import Session


async def talk(session: Session, history: Path) -> None:
    """Runs the prompt until Ctrl-D."""
    peer = sanitized(session.peer)
    asking: PromptSession[str] = PromptSession(
        history=_history(history),
        completer=_NodeCompleter(Names(session.node, session.peer)),
        complete_while_typing=False,
    )
    with _interrupts() as calls:
        while True:
            prompt = "... " if session.is_amid_a_call else f"{peer}> "
            try:
                with patch_stdout(), session.printed.above_prompt():
                    line = await asking.prompt_async(prompt, handle_sigint=False)
            except KeyboardInterrupt:
                session.forget()
                continue
            except EOFError:
                return
            try:
                call = session.take(line)
                if call is not None:
                    await calls.wait_for(_evaluate(session, call))
            except Exception as error:
                errors.show(error)


async def _evaluate(session: Session, call: str) -> None:
    print(await session.evaluate(call))


class _Calls:
    """Ctrl-C stops waiting. The call may continue on the node; its answer is dropped."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None
        self._was_interrupted = False

    async def wait_for(self, work: Coroutine[object, object, None]) -> None:
        self._was_interrupted = False
        self._waiting = asyncio.ensure_future(work)
        try:
            await self._waiting
        except asyncio.CancelledError:
            if not self._was_interrupted:
                raise
            print("** cancelled; the call may continue on the node")
        finally:
            self._waiting.cancel()
            self._waiting = None

    def interrupt(self) -> None:
        if self._waiting is not None:
            self._was_interrupted = True
            self._waiting.cancel()


@contextlib.contextmanager
def _interrupts() -> Iterator[_Calls]:
    """Handles SIGINT while the shell is open.

    One handler is installed throughout, since a change of handlers would leave a moment in which
    SIGINT ends the shell. At the prompt Ctrl-C is a key.
    """
    calls = _Calls()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, calls.interrupt)
    try:
        yield calls
    finally:
        loop.remove_signal_handler(signal.SIGINT)


class _NodeCompleter(Completer):
    def __init__(self, names: Names) -> None:
        self._names = names

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        """Returns nothing: completions come from the asynchronous method."""
        return []

    async def get_completions_async(
        self, document: Document, event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        """Completes the text left of the cursor."""
        for found in await self._names.matching(document.text_before_cursor):
            yield Completion(found.text, start_position=-found.typed, display=found.shown)


class _KeptHistory(FileHistory):
    """A history that ignores write errors, such as a full disk."""

    def store_string(self, string: str) -> None:
        """Appends a line."""
        with contextlib.suppress(OSError):
            super().store_string(string)


def _history(path: Path) -> History:
    """Opens the history file, readable only by its owner because calls may contain secrets."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        opened = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(opened, 0o600)
        finally:
            os.close(opened)
    except OSError as error:
        print(f"history disabled: {path}: {error.strerror}")
        return InMemoryHistory()
    return _KeptHistory(str(path))
