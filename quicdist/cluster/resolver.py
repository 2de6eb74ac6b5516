"""Resolves node names to addresses and selects the carrier."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from quicdist.carriers import causes
from quicdist.carriers.base import CertificateRejected, Connection, DialError, FirstMessage
from quicdist.cluster.carrier import Carrier, TransportAddress
from quicdist.cluster.lookup import Lookup, NotFound, cause_of
from quicdist.cluster.names import NodeName
from quicdist.cluster.whereabouts import Whereabouts
from quicdist.cluster.whereabouts import dial as dial_doubtful
from quicdist.errors import Cause, NoConnection


class Resolver:
    """The carriers and lookups of one node, in the order in which they are tried."""

    def __init__(
        self,
        carriers: Sequence[Carrier],
        lookups: Sequence[Lookup],
        used_first: Callable[[Carrier], None] = lambda carrier: None,
    ) -> None:
        """`used_first` is called once for each carrier, before its first use."""
        self.carriers = tuple(carriers)
        self._used_first = used_first
        self._used: list[Carrier] = []
        self._lookups = tuple(lookups)
        self.whereabouts = Whereabouts()

    def use(self, carrier: Carrier) -> None:
        """Notes that a carrier listens or dials."""
        if carrier not in self._used:
            self._used.append(carrier)
            self._used_first(carrier)

    async def dial(
        self, node: str, timeout: float, first: FirstMessage | None = None
    ) -> Connection:
        """Dials a node. `first` is that of `Carrier.dial`.

        Raises OSError, and NoConnection with the failed lookups.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        ways = await self._find(node, timeout)
        failures: list[str] = []
        found: list[Cause] = []
        for tried, (carrier, place) in enumerate(ways):
            left = max(deadline - loop.time(), 0.001) / (len(ways) - tried)
            self.use(carrier)
            try:
                return await self._dial(carrier, node, place, left, first)
            except CertificateRejected as error:
                raise self.whereabouts.explained(node, place.host, error) from None
            except OSError as error:
                if len(ways) == 1:
                    raise
                found.append(causes.of_error(error))
                failures.append(f"{place}: {error or f'no answer within {left:.3g} s'}")
        raise DialError("; ".join(failures), max(found, key=causes.rank))

    async def _dial(
        self,
        carrier: Carrier,
        node: str,
        place: TransportAddress,
        timeout: float,
        first: FirstMessage | None,
    ) -> Connection:
        doubt = self.whereabouts.doubt(node, place.host)
        dialing = carrier.dial(node, place, timeout, first)
        connection = await dial_doubtful(dialing, place.host, doubt)
        self.whereabouts.reached(place.host)
        return connection

    async def _find(self, node: str, timeout: float) -> list[tuple[Carrier, TransportAddress]]:
        """Returns the addresses from the first successful lookup, with their carriers."""
        name = NodeName.parse(node)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        doubt = self.whereabouts.doubt(node, name.host)
        answers: list[NotFound] = []
        for asked, lookup in enumerate(self._lookups):
            left = max(deadline - loop.time(), 0.001)
            try:
                # The remaining time is divided, so that a slow lookup leaves time for the others.
                finding = lookup.find(name, left / (len(self._lookups) - asked))
                addresses = await dial_doubtful(finding, name.host, doubt)
            except DialError as error:
                answers.append(NotFound(str(error), error.cause))
                continue
            except NotFound as error:
                answers.append(error.with_traceback(None))
                continue
            found = [(carrier, one) for one in addresses if (carrier := self._carrier(one))]
            if found:
                return found
            where = ", ".join(map(str, addresses))
            answers.append(NotFound(f"no carrier of this node supports {where}"))
        text = "; ".join(map(str, answers)) or "no lookup is configured"
        raise NoConnection(node, text, cause_of(answers))

    def _carrier(self, place: TransportAddress) -> Carrier | None:
        return next((one for one in self.carriers if one.transport is place.transport), None)
