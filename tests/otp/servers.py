"""GenServer classes for tests."""

from __future__ import annotations

import asyncio

from quicdist import Atom, ErlangExit
from quicdist.etf import Term
from quicdist.otp import NO_REPLY, GenServer, Stop
from quicdist.otp.gen_server import From

OK = Atom("ok")


class Counter(GenServer):
    """A counter with further requests for tests."""

    def __init__(self, count: int = 0) -> None:
        self.count = count
        self._log: list[Term] = []

    async def handle_call(self, request: Term, sender: From) -> object:
        match request:
            case "count":
                return self.count
            case "log":
                return self._log
            case ("later", seconds):
                asyncio.get_running_loop().call_later(seconds, self.reply, sender, Atom("later"))
                return NO_REPLY
            case ("slow", seconds):
                await asyncio.sleep(seconds)
                return Atom("slept")
            case ("idle", seconds):
                self.timeout_in(seconds)
                return OK
            case "crash":
                raise ValueError("no more")
            case ("exit", reason):
                raise ErlangExit(reason)
            case ("stop", reason, answer):
                raise Stop(reason, answer=answer)
        return Atom("what")

    async def handle_cast(self, request: Term) -> None:
        match request:
            case ("add", int(number)):
                self.count += number
            case ("stop", reason):
                raise Stop(reason)

    async def handle_info(self, message: Term) -> None:
        self._log.append(message)


class Trapping(Counter):
    """A server that reports its exit reason to a process."""

    trap_exit = True

    def __init__(self, tell: list[Term]) -> None:
        super().__init__()
        self._tell = tell

    async def terminate(self, reason: Term) -> None:
        await asyncio.sleep(0)
        self._tell.append(reason)


class Opaque(GenServer):
    """A server with a state that is not a term."""

    def __init__(self) -> None:
        self.thing = object()
