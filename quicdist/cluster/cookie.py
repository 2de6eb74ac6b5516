"""The cookie: from an argument, or from the file that all Erlang nodes on the machine use.

The location, permissions and content of the file follow the `auth` module of OTP.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from quicdist.carriers.trust.files import is_for_others
from quicdist.errors import CookieError, CookieFileError

_FILE = ".erlang.cookie"
_CONTENT = re.compile(r"([ -~]*)[\r\n ]*")
"""Printable ASCII including spaces, up to the end of the line, followed by empty lines only."""
_log = logging.getLogger("quicdist.node")


def find_cookie(given: str | None, home: Path | None = None) -> str:
    """Returns the cookie to use.

    `home` is the user's directory, by default `Path.home()`. Raises CookieError.
    """
    if given is not None:
        return _checked(given, "the cookie given")
    paths = list(_cookie_files(home))
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CookieFileError(
                f"no cookie: none was given and {path} cannot be read: {error.strerror or error}"
            ) from None
        return _of_file(path, [_read(path, status)])[0]
    looked = " and ".join(map(str, paths)) or f"a {_FILE} (there is no home directory)"
    verb = "do" if len(paths) > 1 else "does"
    raise CookieError(
        f"no cookie: none was given and {looked} {verb} not exist; pass one, or write the "
        f"cluster's cookie to that file, readable by its owner only"
    )


def _cookie_files(home: Path | None) -> Iterator[Path]:
    """Yields the home directory, then `filename:basedir(user_config, "erlang")`."""
    if home is None:
        try:
            home = Path.home()
        except RuntimeError:  # neither $HOME nor a user database entry, as in some containers
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
        raise CookieFileError(f"{path} is not a regular file")
    if status.st_mode & 0o077:
        raise CookieFileError(f"{path} must be accessible by its owner only: chmod 400 {path}")
    try:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        reason = error.strerror or error
        raise CookieFileError(
            f"no cookie: none was given and {path} cannot be read: {reason}"
        ) from None
    match = _CONTENT.fullmatch(text)
    if match is None:
        raise CookieFileError(f"invalid cookie file {path}: expected one line of printable ASCII")
    return match[1]


def read_cookies(path: Path) -> tuple[str, ...]:
    """Returns the cookies in a file, one per line.

    The first is offered, all are accepted. Raises CookieFileError.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CookieFileError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise CookieFileError(f"{path} cannot be read: {error}") from None
    _warn_of_exposed(path)
    return _of_file(path, [line for line in lines if line] or [""])


def _of_file(path: Path, cookies: Sequence[str]) -> tuple[str, ...]:
    try:
        return check_cookies(cookies, str(path))
    except CookieError as error:
        raise CookieFileError(str(error)) from None


def check_cookies(cookies: Sequence[str], where: str = "the cookie given") -> tuple[str, ...]:
    """Validates cookies and returns them as a tuple. Raises CookieError."""
    if not cookies:
        raise CookieError(f"{where}: expected at least one cookie")
    return tuple(_checked(cookie, where) for cookie in cookies)


def _warn_of_exposed(path: Path) -> None:
    if is_for_others(path):
        extra = {"event": "cookie_exposed", "path": str(path)}
        text = "%s contains the cookie and is accessible by other users: chmod 400"
        _log.warning(text, path, extra=extra)


def _checked(cookie: str, where: str) -> str:
    if not cookie:
        raise CookieError(f"{where} is empty: expected the cookie of the cluster")
    if len(cookie) > 255:
        raise CookieError(f"{where} has {len(cookie)} characters: at most 255 are allowed")
    if any(ord(character) > 255 for character in cookie):
        raise CookieError(f"{where} contains characters outside latin-1")
    return cookie
