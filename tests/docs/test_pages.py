"""The examples of the pages work as shown, except for names and ports."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from quicdist import BlockingNode, Identity, Node
from quicdist.gateway import erl_arguments
from tests.docs.pages import Reader, blocks
from tests.support.gatewayed import GatewayThread, module_directory
from tests.support.ports import free_port

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
COOKIE = "secret"
ELIXIR = "5555@127.0.0.1"
PYTHON = [f"{port}@127.0.0.1" for port in (4433, 4434, 4435)]


def _free_names() -> dict[str, str]:
    return {one: f"{free_port()}@127.0.0.1" for one in PYTHON}


@pytest.fixture(scope="module")
def elixir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, BlockingNode]]:
    """The name of the Elixir node of the pages, and a node that is connected to it."""
    if shutil.which("elixir") is None:
        pytest.skip("no Elixir: sudo apt-get install elixir")
    with ExitStack() as stack:
        gateway = stack.enter_context(GatewayThread())
        erl = [*erl_arguments(module_directory()), "-epmd_port", str(gateway.epmd_port)]
        named = ["--name", gateway.name, "--cookie", COOKIE, "--erl", " ".join(erl)]
        process = stack.enter_context(
            subprocess.Popen(
                ["elixir", *named, "-e", 'IO.puts("up"); IO.read(:stdio, :line)'],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=tmp_path_factory.mktemp("elixir"),
            )
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        ours = Node("0@127.0.0.1", cookie=COOKIE, identity=Identity.ephemeral(["127.0.0.1"]))
        yield gateway.name, stack.enter_context(BlockingNode(ours))


@pytest.mark.erlang
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page(page: Path, elixir: tuple[str, BlockingNode], tmp_path: Path) -> None:
    name, node = elixir
    with Reader(tmp_path, node, {ELIXIR: name, **_free_names()}) as reader:
        reader.read(page)


@pytest.mark.erlang
def test_the_sample_of_the_readme(elixir: tuple[str, BlockingNode], tmp_path: Path) -> None:
    text = (DOCS.parent / "README.md").read_text("utf-8")
    page = tmp_path / "try-it.md"
    page.write_text(text.partition("## Try it\n")[2].partition("\n## ")[0], "utf-8")
    assert len(list(blocks(page.read_text("utf-8")))) == 6
    with Reader(tmp_path, elixir[1], {ELIXIR: elixir[0], **_free_names()}) as reader:
        reader.read(page)


def test_what_is_in_a_page() -> None:
    text = "a\n\n```sh\nls\n```\n\n<!-- not run: no network -->\n```python\n1\n\n2\n```\n"
    first, second = blocks(text)
    assert (first.language, first.text, first.line, first.not_run) == ("sh", "ls\n", 3, None)
    assert (second.text, second.line, second.not_run) == ("1\n\n2\n", 8, "no network")
