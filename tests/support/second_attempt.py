"""A pytest plugin that runs a failed test of the `io` tier again, in the gate only.

These tests share the machine with each other, so a rare race of a test or of the product fails one
of thousands. With CI=true such a test runs a second time. Every test that failed only at first is
reported with its first failure, and more than MOST of them fail the run. Each is a fault to mend. A
test of the fast tier has one attempt.
"""

from __future__ import annotations

import pytest

from tests.support.skips import is_gate
from tests.support.tiers import is_fast

MOST = 3
"""Maximum number of tests in a run that may pass at the second attempt only."""

_PLUGIN = "rerunfailures"


class SecondAttempt:
    """Marks the tests of a process, and collects reports in the controller of pytest-xdist."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._failed: set[str] = set()

    @property
    def unstable(self) -> dict[str, str]:
        """The first failure of each test that passed at the second attempt, by test."""
        return {test: why for test, why in self._first.items() if test not in self._failed}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if not is_fast(item):
                item.add_marker(pytest.mark.flaky(reruns=1))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome == "rerun":  # type: ignore[comparison-overlap]  # set by the plugin
            self._first[report.nodeid] = report.longreprtext
        elif report.failed:
            self._failed.add(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if len(self.unstable) > MOST and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.unstable:
            return
        terminalreporter.section("tests that passed at the second attempt")
        for test, why in self.unstable.items():
            terminalreporter.write_line(test)
            terminalreporter.write_line(why)
        count = len(self.unstable)
        terminalreporter.write_line(f"{count} of at most {MOST} tests passed at the second attempt")


def register(config: pytest.Config) -> None:
    """Adds the plugin to a run of the gate."""
    if is_gate() and config.pluginmanager.hasplugin(_PLUGIN):
        config.pluginmanager.register(SecondAttempt(), "second attempt")
