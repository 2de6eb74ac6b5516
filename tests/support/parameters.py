"""Names of parametrized tests."""

from __future__ import annotations


def parameter_id(value: object) -> str | None:
    """The text of `value`, for `ids=`; None, so that pytest numbers it, where the text differs
    from process to process: of sets, and of objects whose text has their address. The processes
    of pytest-xdist must agree on the name of each test.
    """
    text = str(value)
    return None if not isinstance(value, str) and ("{" in text or " at 0x" in text) else text
