"""Sphinx extension that converts docstrings with Markdown-style markup to reStructuredText.

A documented name in single backticks becomes a link, other text in backticks becomes code. An
indented block becomes a code block, and a table stays a table. There is no other markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sphinx.application import Sphinx

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")
_CODE = re.compile(r"``.+?``|`[^`]+`")
_MARKUP = re.compile(r"[\\*|]|(?<=\w)_(?!\w)")


def to_rst(lines: list[str]) -> list[str]:
    """Yields the lines of a docstring as reStructuredText."""
    return list(_blocks(lines))


def _blocks(lines: list[str]) -> Iterator[str]:
    in_code = in_table = False
    for number, line in enumerate(lines):
        before = lines[number - 1] if number else ""
        if line.startswith("|"):
            if not in_table:
                yield from ("", ".. list-table::", "   :header-rows: 1", "")
            in_table = True
            yield from _row(line)
            continue
        in_table = False
        if not line.strip():
            yield ""
        elif in_code or line.startswith(">>>") or not line.startswith(" "):
            in_code = line.startswith((" ", ">>>")) or (in_code and before.strip() != "")
            yield line if in_code else _text(line)
        elif before.strip():  # a continuation line of a list item
            yield _text(line)
        else:
            in_code = True
            yield from ("::", "", line)


def _row(line: str) -> Iterator[str]:
    if set(line) <= set("|-: "):
        return
    for number, cell in enumerate(_cells(line)):
        yield ("   * - " if number == 0 else "     - ") + _text(cell)


def _cells(line: str) -> list[str]:
    """Splits a table row into cells; a bar between backticks does not separate cells."""
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append(found[0])
        return f"\0{len(kept) - 1}\0"

    hidden = _CODE.sub(keep, line.strip().strip("|"))
    return [
        re.sub("\0(\\d+)\0", lambda found: kept[int(found[1])], cell.strip())
        for cell in hidden.split("|")
    ]


def _text(line: str) -> str:
    parts = []
    end = 0
    for found in _CODE.finditer(line):
        parts += [_escaped(line[end : found.start()]), _code(found[0].strip("`"))]
        end = found.end()
    return "".join([*parts, _escaped(line[end:])])


def _escaped(text: str) -> str:
    return _MARKUP.sub(lambda found: "\\" + found[0], text)


def _code(text: str) -> str:
    # An escaped space lets adjacent characters touch the markup, as in Markdown.
    return rf"\ :py:obj:`{text}`\ " if _NAME.match(text) else rf"\ ``{text}``\ "


def _process(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    lines[:] = to_rst(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}
