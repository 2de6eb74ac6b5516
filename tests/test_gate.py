"""The gate sees every file: pytest collects each test, ruff and mypy read each Python file."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import mypy.main
import pytest

from tests.support import second_attempt, tiers
from tests.support.second_attempt import SecondAttempt
from tests.support.skips import is_allowed, reason_of
from tests.support.tiers import NotInFastTier, Watch

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def lines_of(*command: str) -> list[str]:
    """Returns the output lines of a command that must succeed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def tracked() -> set[Path]:
    """Every Python file that git tracks or does not ignore."""
    listed = lines_of("git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py")
    found = {ROOT / line for line in listed if (ROOT / line).exists()}
    assert Path(__file__) in found
    return found


@pytest.mark.io
def test_every_test_file_is_collected(tracked: set[Path]) -> None:
    # Without the imports, which make sure that the files are valid when the tests run.
    listed = lines_of(
        *(sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"),
        *("-p", "tests.support.files_only"),
    )
    collected = {ROOT / line.partition("::")[0] for line in listed if "::" in line}
    files = set((ROOT / "tests").rglob("test_*.py"))
    assert collected == files
    assert files <= tracked


@pytest.mark.io
def test_every_test_stands_in_a_file_that_is_collected(tracked: set[Path]) -> None:
    tests = re.compile(r"^(async )?def test_", re.MULTILINE)
    strays = {path for path in tracked if tests.search(path.read_text("utf-8"))}
    assert {path for path in strays if not re.fullmatch(r"test_.*\.py", path.name)} == set()
    assert all(path.is_relative_to(ROOT / "tests") for path in strays)


@pytest.mark.io
def test_every_file_is_linted(tracked: set[Path]) -> None:
    listed = lines_of(sys.executable, "-m", "ruff", "check", "--show-files", ".")
    assert tracked <= set(map(Path, listed))
    # `ruff format` reads the same files, as long as neither has exclusions of its own.
    ruff = PYPROJECT["tool"]["ruff"]
    assert "exclude" not in ruff.get("lint", {})
    assert "exclude" not in ruff.get("format", {})


@pytest.mark.io
def test_every_file_is_type_checked(tracked: set[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sources, options = mypy.main.process_options([])
    assert options.disallow_untyped_defs, "strict"
    assert tracked <= {ROOT / source.path for source in sources if source.path}
    overrides = PYPROJECT["tool"]["mypy"]["overrides"]
    assert all(one.keys() == {"module", "ignore_missing_imports"} for one in overrides)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Replaces the watch of this test, which must pass."""
    with monkeypatch.context() as patch:
        patch.setattr(tiers, "_watch", one := Watch())
        yield one


@pytest.mark.parametrize(
    "act",
    [
        "import socket\nwith socket.socket() as s: s.bind(('127.0.0.1', 0))",
        "import socket\nwith socket.socket() as s: s.connect_ex(('127.0.0.1', 1))",
        "import subprocess; subprocess.Popen(['true'])",
        "import os; os.fork()",
        "import time; time.sleep(0.001)",
        "import multiprocessing as m; m.get_context('spawn').Process(target=print).start()",
    ],
)
def test_a_test_of_the_fast_tier_cannot(act: str, watch: Watch) -> None:
    with pytest.raises(NotInFastTier, match="without the mark io"):
        exec(act, {})
    assert len(watch.broken) == 1, "the test fails even if it catches the error"
    watch.broken.clear()


async def test_nor_sleep_on_the_event_loop(watch: Watch) -> None:
    await asyncio.sleep(0)
    with pytest.raises(NotInFastTier, match=r"asyncio.sleep\(0.001\)"):
        await asyncio.sleep(0.001)
    watch.broken.clear()


def test_the_gate_allows_some_reasons_to_skip_a_test() -> None:
    assert is_allowed(reason_of(("file.py", 1, "Skipped: no IPv6 here")))
    assert not is_allowed(
        reason_of(("file.py", 1, "Skipped: no Elixir: sudo apt-get install elixir"))
    )


def report(test: str, outcome: str) -> pytest.TestReport:
    """A report of the call of `test`."""
    return pytest.TestReport(test, (test, 1, test), {}, outcome, outcome, "call")  # type: ignore[arg-type]


def test_a_test_that_passes_at_the_second_attempt_is_reported_with_its_first_failure() -> None:
    attempts = SecondAttempt()
    for test, outcome in (
        ("unstable", "rerun"),
        ("unstable", "passed"),
        ("broken", "rerun"),
        ("broken", "failed"),
        ("stable", "passed"),
    ):
        attempts.pytest_runtest_logreport(report(test, outcome))
    assert attempts.unstable == {"unstable": "rerun"}


@pytest.mark.parametrize(
    ("count", "status"),
    [
        (second_attempt.MOST, pytest.ExitCode.OK),
        (second_attempt.MOST + 1, pytest.ExitCode.TESTS_FAILED),
    ],
)
def test_too_many_tests_that_pass_at_the_second_attempt_fail_the_gate(
    count: int, status: pytest.ExitCode
) -> None:
    attempts = SecondAttempt()
    for number in range(count):
        attempts.pytest_runtest_logreport(report(f"test {number}", "rerun"))
    session = SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    attempts.pytest_sessionfinish(session)  # type: ignore[arg-type]
    assert session.exitstatus is status
