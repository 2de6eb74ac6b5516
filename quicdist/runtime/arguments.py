"""Says which argument of which function cannot be encoded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from quicdist.etf import EtfEncodeError

_INDEX = re.compile(r"\[(\d+)\]")

# Where the arguments lie in what is sent.
IN_ERPC_CALL = "[3]"
IN_ERPC_CAST = "[2]"
IN_REX_CALL = "[2][3]"


@contextmanager
def arguments_of(module: str, function: str, args: Sequence[object], at: str) -> Iterator[None]:
    """Raises an EtfEncodeError from within as one that names the argument of the function.

    `at` is the path of the arguments in the term that is encoded.
    """
    try:
        yield
    except EtfEncodeError as error:
        name = f"{module}:{function}/{len(args)}"
        index = _INDEX.match(error.path, len(at)) if error.path.startswith(at) else None
        if index is None:
            raise error.about("", f"the arguments of {name}") from None
        number = int(index[1]) + 1
        raise error.about(f"{at}{index[0]}", f"argument {number} of {name}") from None
