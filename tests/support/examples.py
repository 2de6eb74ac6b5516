"""How many examples hypothesis tries in a test with a number of its own."""

from __future__ import annotations

from hypothesis import settings

USUAL = 100
"""Examples in the default profile."""


def examples(usual: int) -> int:
    """Returns `usual` in the default profile, and in proportion in another one.

    A module calls it when it is imported, which is after tests/conftest.py has loaded the profile.
    """
    return max(5, usual * settings().max_examples // USUAL)
