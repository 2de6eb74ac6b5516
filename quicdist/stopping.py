"""What tells a program that stays to stop."""

from __future__ import annotations

import signal
from collections.abc import Sequence


def stop_signals() -> Sequence[signal.Signals]:
    """SIGINT, SIGTERM, and SIGHUP, which a terminal sends when it is closed."""
    asked = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return asked  # as nohup has it: the program is to outlive its terminal
    return [*asked, signal.SIGHUP]
