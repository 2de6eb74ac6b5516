"""The interactive view on a terminal. Requires prompt_toolkit."""

from __future__ import annotations

import asyncio
from typing import Any

from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.styles import Style

from quicdist.cli.top import screen
from quicdist.cli.top.sampling import Sort
from quicdist.cli.top.watching import Watch

_KEYS = "r reductions  m memory  b mailbox  space pause  q quit"
_SORTS = {"r": Sort.REDUCTIONS, "m": Sort.MEMORY, "b": Sort.MAILBOX}
_STYLE = Style.from_dict(
    {
        "title": "bold",
        "sorted": "bold reverse",
        "problem": "ansired bold",
        "faint": "ansibrightblack",
    }
)


async def show(watch: Watch) -> None:
    """Runs until q or Ctrl-C. Raises NoBeam, and what else Watch.look_on raises."""
    application = _application(watch)
    looking = asyncio.ensure_future(watch.look_on(application.invalidate))
    showing = asyncio.ensure_future(application.run_async())
    try:
        await asyncio.wait((looking, showing), return_when=asyncio.FIRST_COMPLETED)
        for one in (looking, showing):
            if one.done():
                one.result()
    finally:
        looking.cancel()
        if application.is_running:
            application.exit()
        else:
            showing.cancel()
        await asyncio.gather(looking, showing, return_exceptions=True)


def _application(watch: Watch) -> Application[None]:
    control = FormattedTextControl(lambda: _text(watch, application))
    foot = FormattedTextControl([("class:faint", _KEYS)])
    application: Application[None] = Application(
        layout=Layout(HSplit([Window(control), Window(foot, height=1)])),
        key_bindings=_bindings(watch),
        style=_STYLE,
        full_screen=True,
    )
    return application


def _text(watch: Watch, application: Application[Any]) -> StyleAndTextTuples:
    size = application.output.get_size()
    watch.rows = max(1, size.rows - screen.HEAD - 1)
    text: StyleAndTextTuples = []
    for line in screen.lines(watch.view, size.columns):
        text += line
        text.append(("", "\n"))
    return text


def _bindings(watch: Watch) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("q")
    @keys.add("c-c")
    @keys.add("c-d")
    def _leave(event: Any) -> None:
        event.app.exit()

    @keys.add(" ")
    def _pause(event: Any) -> None:
        watch.pause_or_go_on()

    for key, sort in _SORTS.items():

        @keys.add(key)
        def _sort(event: Any, sort: Sort = sort) -> None:
            watch.sort_by(sort)

    return keys
