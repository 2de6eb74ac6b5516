"""Short names of nodes in the local network, for a node with a `Lan` among its lookups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from quicdist.cluster.lan import Lan
from quicdist.cluster.lookup import Lookup, NotFound
from quicdist.errors import Cause, NoConnection


class ShortNames:
    """Returns node names for short names.

    A name that was found holds while the node is connected. Equal searches at a time are one.
    """

    def __init__(self, lookups: Sequence[Lookup]) -> None:
        self._lan = next((one for one in lookups if isinstance(one, Lan)), None)
        self._found: dict[str, str] = {}
        self._searches: dict[str, asyncio.Task[str]] = {}
        self._is_closed = False

    async def node_named(
        self, name: str, is_up: Callable[[str], bool], timeout: float | None
    ) -> str:
        """Returns the node name for a short name, and any name of a node without `Lan` as it is.

        Raises NoConnection if no node, or more than one, has the short name.
        """
        if self._lan is None:
            return name
        self._is_closed = False
        known = self._found.get(name)
        if known is not None and is_up(known):
            return known
        search = self._searches.get(name)
        if search is None:
            search = asyncio.get_running_loop().create_task(self._lan.node_named(name))
            self._searches[name] = search
            search.add_done_callback(lambda done: self._end(name, done))
        try:
            async with asyncio.timeout(timeout):
                # A cancelled caller does not cancel the shared search.
                return await asyncio.shield(search)
        except NotFound as error:
            raise NoConnection(name, str(error), error.cause) from None
        except TimeoutError:
            raise NoConnection(name, "no answer by multicast DNS in time") from None
        except asyncio.CancelledError:
            if self._is_closed:
                raise NoConnection(name, "this node has stopped", Cause.STOPPED) from None
            raise

    def _end(self, name: str, done: asyncio.Task[str]) -> None:
        del self._searches[name]
        self._found.pop(name, None)
        if not done.cancelled() and done.exception() is None:
            self._found[name] = done.result()

    def close(self) -> None:
        """Ends all searches, until the next one."""
        self._is_closed = True
        for search in self._searches.values():
            search.cancel()
