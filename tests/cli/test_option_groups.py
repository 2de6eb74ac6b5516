"""Options that commands share, declared once."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from quicdist.cli import app, client
from quicdist.cli.option_groups import takes_groups
from quicdist.cli.options import (
    ClientOptions,
    CookieOptions,
    DialOptions,
    RequireOptions,
    TlsOptions,
)


@dataclass(frozen=True)
class Inner:
    size: Annotated[int, typer.Option("--size", "-s")] = 3


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    colour: Annotated[str | None, typer.Option("--colour")] = None


def run(*words: str) -> tuple[str, Outer, bool]:
    """Runs a command that takes the groups above."""
    app, given = typer.Typer(), []

    @app.command()
    @takes_groups
    def command(
        name: Annotated[str, typer.Argument()],
        loud: Annotated[bool, typer.Option("--loud")] = False,
        *,
        options: Outer,
    ) -> None:
        given.append((name, options, loud))

    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    (one,) = given
    return one


def test_a_command_gets_instances_of_its_groups() -> None:
    assert run("me") == ("me", Outer(), False)
    assert run("me", "--loud", "-s", "7", "--colour", "red") == (
        "me",
        Outer(Inner(7), "red"),
        True,
    )


def test_two_options_of_one_name_are_an_error() -> None:
    def command(size: int = 1, *, options: Outer) -> None:
        raise AssertionError("never called")

    with pytest.raises(ValueError, match="size"):
        takes_groups(command)


GIVEN = {
    "--cookie": "secret",
    "--cookie-file": "cookies",
    "--name": "1@127.0.0.1",
    "--via": "4433@203.0.113.10",
    "--lookup": "epmd",
    "--trust": "none",
    "--cert": "cert",
    "--key": "key",
    "--key-passphrase-file": "pass",
    "--crl": "crl",
}
EXPECTED = ClientOptions(
    DialOptions(
        CookieOptions("secret", Path("cookies")),
        "1@127.0.0.1",
        ["4433@203.0.113.10"],
        ["epmd"],
        TlsOptions("none", Path("cert"), Path("key"), Path("pass"), Path("crl")),
    ),
    RequireOptions(require_tls=True, require_binding=True),
    verbose=2,
)


@pytest.mark.parametrize(
    "words",
    [
        ["ping", "2@127.0.0.1"],
        ["call", "2@127.0.0.1", "m", "f"],
        ["send", "2@127.0.0.1", "to", "hello"],
        ["disconnect", "2@127.0.0.1", "3@127.0.0.1"],
        ["exports", "2@127.0.0.1"],
        ["top", "2@127.0.0.1"],
        ["shell", "2@127.0.0.1"],
    ],
    ids=lambda words: words[0],
)
def test_every_client_command_passes_its_options_to_the_connection(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []

    class Seen(Exception):
        pass

    @contextlib.asynccontextmanager
    async def connected(
        peer: str, options: ClientOptions, timeout: float, **_: object
    ) -> AsyncIterator[None]:
        given.extend((peer, options, timeout))
        raise Seen
        yield

    monkeypatch.setattr(client, "connected", connected)
    monkeypatch.setattr(client, "start_logging", lambda verbose: None)
    more = [word for pair in GIVEN.items() for word in pair]
    words = [*words, *more, "--require-tls", "--require-binding", "-vv", "--timeout", "2.5"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, Seen), result.output
    assert given == ["2@127.0.0.1", EXPECTED, 2.5]
