"""The cookie: given, or from `~/.erlang.cookie` as every Erlang node on the machine uses it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from quicdist.node.errors import CookieError

_log = logging.getLogger("quicdist.node")


def find_cookie(given: str | None, home: Path | None = None) -> str:
    """The cookie to use. `home` is where `.erlang.cookie` is looked for. Raises CookieError."""
    if given is not None:
        return _checked(given, "the cookie given")
    path = (home or Path.home()) / ".erlang.cookie"
    try:
        # Erlang ends the cookie at the first line end, and writes none itself.
        text = path.read_text(encoding="utf-8").split("\n", 1)[0].strip("\r")
    except FileNotFoundError:
        raise CookieError(
            f"no cookie: none was given and {path} does not exist; "
            f"give one, or write the cluster's cookie to that file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CookieError(f"no cookie: none was given and {path} cannot be read: {error}") from None
    _warn_of_exposed(path)
    return _checked(text, str(path))


def read_cookies(path: Path) -> tuple[str, ...]:
    """The cookies in a file, one in a line: the first is offered, all are accepted. Raises
    CookieError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CookieError(f"{path} cannot be read: {error}") from None
    _warn_of_exposed(path)
    cookies = tuple(line for line in lines if line)
    return check_cookies(cookies or ("",), str(path))


def check_cookies(cookies: Sequence[str], where: str = "the cookie given") -> tuple[str, ...]:
    """The same, each looked at. Raises CookieError."""
    if not cookies:
        raise CookieError(f"{where}: at least one cookie is expected")
    return tuple(_checked(cookie, where) for cookie in cookies)


def _warn_of_exposed(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        extra = {"event": "cookie_exposed", "path": str(path)}
        text = "%s holds the cookie, and is not for its owner alone: chmod 400"
        _log.warning(text, path, extra=extra)


def _checked(cookie: str, where: str) -> str:
    if not cookie:
        raise CookieError(f"{where} is empty: the cookie that all nodes of the cluster share")
    if len(cookie) > 255:
        raise CookieError(f"{where} has {len(cookie)} characters: at most 255 are possible")
    if any(ord(character) > 255 for character in cookie):
        raise CookieError(f"{where} holds characters that no Erlang cookie can: latin-1 only")
    return cookie
