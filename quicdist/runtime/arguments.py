"""Names the argument of a call that cannot be encoded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from quicdist.etf import EtfEncodeError

_INDEX = re.compile(r"\[(\d+)\]")

# Paths of the arguments in the encoded terms.
IN_ERPC_CALL = "[3]"
IN_ERPC_CAST = "[2]"
IN_REX_CALL = "[2][3]"


@contextmanager
def arguments_of(module: str, function: str, args: Sequence[object], at: str) -> Iterator[None]:
    """Raises an EtfEncodeError from within as one that names the function's argument.

    `at` is the path of the arguments in the encoded term.
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
