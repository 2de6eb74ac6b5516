"""How long an alias made together with a monitor lasts: `erlang:monitor/3`, option `alias`."""

from __future__ import annotations

import enum


class AliasMode(enum.Enum):
    """When such an alias ends."""

    EXPLICIT_UNALIAS = "explicit_unalias"
    """With `unalias` alone."""

    DEMONITOR = "demonitor"
    """With the monitor too: taken back, or fired."""

    REPLY_DEMONITOR = "reply_demonitor"
    """With the first message sent to it too, which also takes the monitor back."""
