"""The cookie: given, or from the file that every Erlang node on the machine uses.

OTP's `auth` module is the rule, for where the file is, who may read it, and what it holds.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from quicdist.errors import CookieError

_FILE = ".erlang.cookie"
_CONTENT = re.compile(r"([ -~]*)[\r\n ]*")
"""Printable ASCII, blanks included, up to the line's end; behind it only empty lines."""
_log = logging.getLogger("quicdist.node")


def find_cookie(given: str | None, home: Path | None = None) -> str:
    """The cookie to use. `home` is the user's directory, by default that of $HOME or of the user
    database. Raises CookieError."""
    if given is not None:
        return _checked(given, "the cookie given")
    places = list(_places(home))
    for path in places:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CookieError(
                f"no cookie: none was given and {path} cannot be read: {error.strerror or error}"
            ) from None
        return _checked(_read(path, status), str(path))
    looked = " and ".join(map(str, places)) or f"a {_FILE}, there being no home directory,"
    verb = "do" if len(places) > 1 else "does"
    raise CookieError(
        f"no cookie: none was given and {looked} {verb} not exist; give one, or write the "
        f"cluster's cookie to that file, readable by its owner only"
    )


def _places(home: Path | None) -> Iterator[Path]:
    """The home directory, then `filename:basedir(user_config, "erlang")`."""
    if home is None:
        try:
            home = Path.home()
        except RuntimeError:  # no $HOME and no entry in the user database, as in some containers
            return
        config = os.environ.get("XDG_CONFIG_HOME")
    else:
        config = None
    yield home / _FILE
    if config:
        yield Path(config) / "erlang" / _FILE
    elif sys.platform == "darwin":
        yield home / "Library" / "Application Support" / "erlang" / _FILE
    else:
        yield home / ".config" / "erlang" / _FILE


def _read(path: Path, status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):
        raise CookieError(f"{path} is no regular file, as a cookie file must be")
    if status.st_mode & 0o077:
        raise CookieError(
            f"{path} must be accessible by its owner only, as Erlang demands: chmod 400 {path}"
        )
    try:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        reason = error.strerror or error
        raise CookieError(
            f"no cookie: none was given and {path} cannot be read: {reason}"
        ) from None
    match = _CONTENT.fullmatch(text)
    if match is None:
        raise CookieError(
            f"{path} holds more than one line of printable ASCII, which Erlang does not take for a "
            f"cookie"
        )
    return match[1]


def read_cookies(path: Path) -> tuple[str, ...]:
    """The cookies in a file, one in a line: the first is offered, all are accepted. Raises
    CookieError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CookieError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
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
