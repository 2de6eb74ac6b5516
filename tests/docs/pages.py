"""Runs the fenced code blocks of a Markdown page in order, as a reader would.

The language of a block selects the action. All blocks of a page share one directory:

- `python`: a script. If it starts with the comment `# name.py`, it is written to that file.
- `sh`: lines for the shell. A command with `&` runs until the end of the page.
- `elixir`, `erlang`: evaluated on the node 5555@127.0.0.1, with the variables of earlier blocks.
- `output`: the expected output of the block before it. `...` matches anything.

Other blocks are ignored. `<!-- not run: why -->` before a block prevents its execution.
"""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from quicdist import Atom, BlockingNode
from quicdist.etf import Term
from tests.support.closing import Closing
from tests.support.waiting import PATIENCE

_BLOCK = re.compile(
    r"(?P<why><!-- not run: (?P<reason>.+?) -->\n+)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(r"# (\S+\.py)\n")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    text: str
    line: int
    not_run: str | None


def blocks(text: str) -> Iterator[Block]:
    """Returns the blocks of a page in order."""
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        yield Block(found["language"], found["text"], line, found["reason"])


class Reader(Closing):
    """Runs the blocks of a page. `names` maps the names on the page to real ones."""

    def __init__(self, directory: Path, elixir: BlockingNode, names: Mapping[str, str]) -> None:
        self._directory = directory
        self._elixir = elixir
        self._names = names
        self._variables: dict[str, Term] = {"elixir": [], "erlang": []}
        self._background: list[subprocess.Popen[bytes]] = []
        self._printed = ""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {
            **{key: value for key, value in os.environ.items() if "QUICDIST" not in key},
            "PATH": path,
            "HOME": str(directory),
            "NO_COLOR": "1",
            "TERM": "dumb",
            "COLUMNS": "160",
            "QUICDIST_STATE_DIR": str(directory / ".state"),
        }

    def close(self) -> None:
        for process in self._background:
            _end(process)
            if process.stdout is not None:
                process.stdout.close()

    def read(self, page: Path) -> None:
        """From top to bottom; AssertionError names the place."""
        for block in blocks(page.read_text("utf-8")):
            run = self._what_runs(block.language)
            if run is None or block.not_run:
                continue
            try:
                run(self._renamed(block.text))
            except Exception as error:
                raise AssertionError(f"{page.name}, line {block.line}: {error}") from error

    def _what_runs(self, language: str) -> Callable[[str], None] | None:
        return {
            "python": self._python,
            "sh": self._shell,
            "elixir": self._evaluate_elixir,
            "erlang": self._evaluate_erlang,
            "output": self._compare,
        }.get(language)

    def _renamed(self, text: str) -> str:
        for old, new in self._names.items():
            text = text.replace(old, new)
        return text

    def _python(self, source: str) -> None:
        named = _FILE.match(source)
        if named:
            (self._directory / named[1]).write_text(source, "utf-8")
        else:
            self._printed = self._run(sys.executable, "-W", "error", "-c", source)

    def _shell(self, lines: str) -> None:
        self._printed = ""
        for line in lines.replace("\\\n", "").splitlines():
            command = re.split(r"\s+# ", line)[0]
            if command.endswith("&"):
                self._start(command.removesuffix("&"))
            elif command.startswith("export "):
                key, _, value = command.removeprefix("export ").partition("=")
                self._environment[key] = value
            else:
                self._printed += self._run("sh", "-c", command)

    def _start(self, command: str) -> None:
        log = self._directory / f"background-{len(self._background)}"
        with log.open("wb") as written:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._background.append(process)
        deadline = time.monotonic() + PATIENCE
        while b" is up" not in log.read_bytes():
            assert process.poll() is None, f"{command} has ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"{command} does not come up: {log.read_text()}"
            time.sleep(0.02)

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            encoding="utf-8",
        )
        assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout}"
        return done.stdout

    def _evaluate_elixir(self, source: str) -> None:
        _, self._variables["elixir"] = self._call(
            "Elixir.Code", "eval_string", source, self._variables["elixir"]
        )

    def _evaluate_erlang(self, source: str) -> None:
        _, tokens, _ = self._call("erl_scan", "string", list(source.encode()))
        _, expressions = self._call("erl_parse", "parse_exprs", tokens)
        _, _, self._variables["erlang"] = self._call(
            "erl_eval", "exprs", expressions, self._variables["erlang"]
        )

    def _call(self, module: str, function: str, *arguments: Term) -> tuple[Term, ...]:
        node = self._names["5555@127.0.0.1"]
        value = self._elixir.call(node, module, function, arguments, timeout=PATIENCE)
        assert isinstance(value, tuple)
        assert value[0] != Atom("error"), value
        return value

    def _compare(self, expected: str) -> None:
        checker = doctest.OutputChecker()
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        example = doctest.Example("", expected)
        if not checker.check_output(expected, self._printed, flags):
            raise AssertionError(checker.output_difference(example, self._printed, flags))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stops it with SIGINT, so that its peers see a clean disconnect."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
