"""The signals that stop a long-running command."""

from __future__ import annotations

import signal
from collections.abc import Sequence


def stop_signals() -> Sequence[signal.Signals]:
    """SIGINT, SIGTERM and, unless it is ignored, SIGHUP, which a closed terminal sends."""
    asked = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return asked  # nohup ignores SIGHUP so that the program outlives its terminal
    return [*asked, signal.SIGHUP]
