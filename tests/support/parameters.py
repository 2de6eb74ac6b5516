"""Names of parametrized tests."""

from __future__ import annotations


def parameter_id(value: object) -> str | None:
    """Returns the text of `value` for `ids=`, or None if the text differs between processes.

    That is the case for sets, and for objects whose text contains an address. pytest numbers these,
    because the processes of pytest-xdist must agree on the name of each test.
    """
    text = str(value)
    return None if not isinstance(value, str) and ("{" in text or " at 0x" in text) else text
