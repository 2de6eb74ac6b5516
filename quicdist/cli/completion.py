"""Completion in the user's shell: the modules and functions of the node on the command line.

Install it with `quicdist --install-completion`. The node is asked while Tab is pressed; if it does
not answer within a second, there are no completions.
"""

from __future__ import annotations

from collections.abc import Mapping

import typer

_TIMEOUT = 1.0
"""Seconds to connect, and to answer."""


def modules(context: typer.Context, incomplete: str) -> list[str]:
    """For M of `quicdist call NODE M`: modules, or functions after `M:`."""
    found = _matching(context.params, incomplete)
    return found if ":" in incomplete else [one.removesuffix(":") for one in found]


def functions(context: typer.Context, incomplete: str) -> list[str]:
    """For F of `quicdist call NODE M F`."""
    module = str(context.params.get("module") or "")
    found = _matching(context.params, f"{module}:{incomplete}")
    return [one.removeprefix(f"{module}:") for one in found]


def _matching(params: Mapping[str, object], incomplete: str) -> list[str]:
    import asyncio

    node = params.get("node")
    if not isinstance(node, str):
        return []
    try:
        return asyncio.run(_ask(node, params, incomplete))
    except Exception:  # an error message would end up in the command line of the user
        return []


async def _ask(node: str, params: Mapping[str, object], incomplete: str) -> list[str]:
    import asyncio
    import logging
    import os

    from quicdist.cli import client
    from quicdist.cli.options import ClientOptions, CookieOptions, DialOptions, TlsOptions
    from quicdist.cli.shell.names import Names

    logging.disable()
    cookie = params.get("cookie") or os.environ.get("QUICDIST_COOKIE")
    trust = params.get("trust") or "first-use"
    cookies = CookieOptions(str(cookie) if cookie else None)
    options = ClientOptions(DialOptions(cookies, tls=TlsOptions(str(trust))))
    async with asyncio.timeout(2 * _TIMEOUT), client.connected(node, options, _TIMEOUT) as ours:
        found = await Names(ours, node).matching(incomplete)
    kept = {one: incomplete[: len(incomplete) - one.typed] for one in found}
    return [f"{before}{one.text.rstrip('()')}" for one, before in kept.items()]
