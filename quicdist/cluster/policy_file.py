"""Reads a policy from a TOML file; see `docs/policy.md`.

mode = "log"

[[peers]]
nodes = ["*@10.0.0.*"]
names = ["counter"]
calls = ["calc:*"]
"""

from __future__ import annotations

import dataclasses
import enum
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from quicdist.cluster.access_rules import check_name_pattern
from quicdist.cluster.policy import EVERYTHING, Mode, PeerRules, Pids, Policy
from quicdist.errors import QuicdistError

_E = TypeVar("_E", bound=enum.Enum)
_Reader: TypeAlias = Callable[[Any], Any]


class PolicyError(QuicdistError):
    """A policy cannot be read. The text is one line that names the file and the line or key."""


def read_policy(path: Path | str) -> Policy:
    """Reads a policy from a TOML file. Raises PolicyError."""
    try:
        return parse_policy(Path(path).read_text("utf-8"))
    except OSError as error:
        raise PolicyError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise PolicyError(f"{path} is not UTF-8") from None
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from None


def parse_policy(text: str) -> Policy:
    """Parses the text of a policy file. Raises PolicyError."""
    try:
        whole = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        last = f"at line {text.count(chr(10)) + 1}, the end"
        raise PolicyError(str(error).replace("at end of document", last)) from None
    except RecursionError:
        raise PolicyError("invalid TOML: nested too deeply") from None
    except ValueError as error:  # from Python: an integer with too many digits
        raise PolicyError(f"invalid TOML: {error}") from None
    _known(whole, ("mode", "peers"), "")
    entries = whole.get("peers")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PolicyError("expected at least one [[peers]] table; without one no node may connect")
    peers = tuple(_rules(entry, f"peers[{place}]") for place, entry in enumerate(entries, 1))
    mode = _read(_one_of(Mode), whole["mode"], "mode") if "mode" in whole else Mode.REFUSE
    return Policy(peers, mode)


def _rules(entry: Mapping[str, Any], where: str) -> PeerRules:
    _known(entry, _READERS, f"{where}.")
    if not entry.get("nodes"):
        raise PolicyError(f'{where}.nodes: missing; expected patterns, as in ["*@10.0.0.*"]')
    values = {key: _read(_READERS[key], value, f"{where}.{key}") for key, value in entry.items()}
    return PeerRules(**values)


def _known(table: Mapping[str, Any], keys: Any, where: str) -> None:
    for key in table:
        if key not in keys:
            raise PolicyError(f"{where}{key}: unknown key; expected one of {', '.join(keys)}")


def _read(reader: _Reader, value: Any, where: str) -> Any:
    try:
        return reader(value)
    except ValueError as error:
        raise PolicyError(f"{where}: {error}") from None


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise ValueError(f"expected a list of strings, got {value!r}")
    return tuple(value)


def _name_patterns(value: Any) -> tuple[str, ...]:
    for pattern in (patterns := _patterns(value)):
        check_name_pattern(pattern)
    return patterns


def _node_patterns(value: Any) -> tuple[str, ...]:
    for pattern in (patterns := _patterns(value)):
        if "@" not in pattern and pattern != EVERYTHING:
            raise ValueError(f"invalid pattern {pattern!r}: expected name@host, or * for all")
    return patterns


def _call_patterns(value: Any) -> tuple[str, ...]:
    for pattern in (patterns := _patterns(value)):
        if pattern != EVERYTHING and (pattern.count(":") != 1 or "/" in pattern):
            raise ValueError(f"invalid pattern {pattern!r}: expected module:function, or *")
    return patterns


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {value!r}")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a non-negative integer, got {value!r}")
    return value


def _one_of(kind: type[_E]) -> Callable[[Any], _E]:
    def read(value: Any) -> _E:
        try:
            return kind(value)
        except ValueError:
            names = " or ".join(f'"{one.value}"' for one in kind)
            raise ValueError(f"expected {names}, got {value!r}") from None

    return read


_READERS: dict[str, _Reader] = {
    "nodes": _node_patterns,
    "names": _name_patterns,
    "calls": _call_patterns,
    "ping": _switch,
    "monitors": _switch,
    "links": _switch,
    "exits": _switch,
    "group_leaders": _switch,
    "system_messages": _switch,
    "funs": _switch,
    "new_atoms": _count,
    "pids": _one_of(Pids),
}
assert set(_READERS) == {field.name for field in dataclasses.fields(PeerRules)}
