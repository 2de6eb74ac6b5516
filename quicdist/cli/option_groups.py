"""Groups of options: dataclasses whose fields are options of a command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


def takes_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces each parameter of a command that is an option group by the options of the group.

    A group is a dataclass. Each field is an option, declared as a parameter of a typer command is,
    or another group. The command is called with instances of its groups. Raises ValueError if two
    options have the same name.
    """
    declared = inspect.signature(command, eval_str=True).parameters.values()
    parameters: list[inspect.Parameter] = []
    for one in declared:
        if is_dataclass(one.annotation):
            parameters.extend(_options(one.annotation))
        else:
            parameters.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def called(**given: Any) -> None:
        command(**{one.name: _value(one.name, one.annotation, given) for one in declared})

    # typer reads both.
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


def _options(group: Any) -> Iterator[inspect.Parameter]:
    """Yields the options of a group and of the groups in it as parameters."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        hint = hints[field.name]
        if is_dataclass(hint):
            yield from _options(hint)
        else:
            yield inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hint
            )


def _value(name: str, kind: Any, given: dict[str, Any]) -> Any:
    if not is_dataclass(kind):
        return given[name]
    hints = get_type_hints(kind, include_extras=True)
    made: Callable[..., object] = kind  # type: ignore[assignment]  # a class, not an instance
    return made(**{one.name: _value(one.name, hints[one.name], given) for one in fields(kind)})
