"""Windowed maximum and minimum for model-based congestion control, without I/O and clock."""

from __future__ import annotations

import math


class MaxFilter:
    """The largest value of the current window and the `length - 1` windows before it.

    The caller defines the windows: BBR uses bandwidth probing cycles for bandwidth and round trips
    for aggregation (draft-ietf-ccwg-bbr, BBR.MaxBwFilter and BBR.ExtraACKedFilter).
    """

    __slots__ = ("_values", "value")

    def __init__(self, length: int) -> None:
        self._values = [0.0] * length
        self.value = 0.0

    def update(self, value: float) -> None:
        """Adds a measurement to the current window."""
        if value > self._values[0]:
            self._values[0] = value
            if value > self.value:
                self.value = value

    def advance(self) -> None:
        """Starts a new window, unless the current one has no measurement yet."""
        if not self._values[0]:
            return
        self._values.insert(0, 0.0)
        self._values.pop()
        self.value = max(self._values)

    def replace(self, value: float) -> None:
        """Replaces all measurements by this one."""
        self._values = [0.0] * len(self._values)
        self._values[0] = self.value = value


class MinFilter:
    """The smallest value of the last `window` seconds, or the newest if all are older."""

    __slots__ = ("at", "value", "window")

    def __init__(self, window: float) -> None:
        self.window = window
        self.value = math.inf
        self.at = 0.0
        """Time when the value was measured or last confirmed."""

    def is_expired(self, now: float) -> bool:
        """Whether the value is older than the window."""
        return self.value is math.inf or now > self.at + self.window

    def update(self, value: float, now: float) -> None:
        """Adds a measurement."""
        if value <= self.value or self.is_expired(now):
            self.value, self.at = value, now

    def confirm(self, value: float, now: float, tolerance: float) -> None:
        """Keeps the value for another window if the measurement is within `tolerance` of it."""
        if value <= self.value * (1.0 + tolerance):
            self.at = now
