"""The lifetime of an alias created with a monitor: `erlang:monitor/3`, option `alias`."""

from __future__ import annotations

import enum


class AliasMode(enum.Enum):
    """When an alias is deactivated."""

    EXPLICIT_UNALIAS = "explicit_unalias"
    """Only by `unalias`."""

    DEMONITOR = "demonitor"
    """Also when the monitor is removed or fires."""

    REPLY_DEMONITOR = "reply_demonitor"
    """Also by the first message sent to it, which removes the monitor as well."""
