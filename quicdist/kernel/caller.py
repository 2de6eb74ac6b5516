"""The process that makes calls for Python code outside any process.

OTP: net_adm:ping/1, erpc:call/5, erpc:cast/4, rpc:call/5.
"""

from __future__ import annotations

from quicdist.errors import (
    CallError,
    CallTimeout,
    Cause,
    ErrorClass,
    NoConnection,
    NoProcess,
    NotRunning,
)
from quicdist.etf import Atom, Pid, Term
from quicdist.kernel.current_call import remaining
from quicdist.kernel.net_kernel import NET_KERNEL, YES, is_auth_call
from quicdist.protocol import signals
from quicdist.runtime.calls import CallRequest, ErpcCall, GenCall, check_timeout, gen_call
from quicdist.runtime.process_table import ProcessTable
from quicdist.runtime.system_process import SystemProcess, ignore

_ERPC = Atom("erpc")
_EXECUTE_CAST = Atom("execute_cast")
_CALL = Atom("call")
_REX = Atom("rex")
_USER = Atom("user")


class Caller(SystemProcess):
    """Makes calls. Connects to the called node if necessary."""

    def __init__(self, system: ProcessTable, group_leader: Pid) -> None:
        super().__init__(system, ignore)
        self._group_leader = group_leader

    async def ping(self, node: Atom, timeout: float | None) -> bool:
        """Returns whether the node answers, as `net_adm:ping`."""
        try:
            answer = await self.gen_call(
                (NET_KERNEL, node), is_auth_call(None, self.system.name)[2], timeout
            )
        except (NoConnection, NoProcess, CallError, CallTimeout):
            return False
        return answer is YES

    async def erpc(
        self, node: Atom, module: Atom, function: Atom, args: list[Term], timeout: float | None
    ) -> Term:
        """`erpc:call(Node, Module, Function, Args, Timeout)`."""
        check_timeout(timeout)
        self._check(node)
        timeout = remaining(timeout)
        call = ErpcCall(self, node, module, function, args, self._group_leader, timeout)
        call.begin()
        return await call.wait(timeout)

    def erpc_request(
        self, node: Atom, module: Atom, function: Atom, args: list[Term]
    ) -> CallRequest:
        """`erpc:send_request(Node, Module, Function, Args)`. Raises EtfEncodeError."""
        return CallRequest(ErpcCall(self, node, module, function, args, self._group_leader))

    async def cast(self, node: Atom, module: Atom, function: Atom, args: list[Term]) -> None:
        """`erpc:cast(Node, Module, Function, Args)`. Raises NoConnection, EtfEncodeError."""
        request = self.system.identifiers.reference()
        mfa = (_ERPC, _EXECUTE_CAST, 3)
        signal = signals.SpawnRequest(request, self.pid, self._group_leader, mfa, [])
        route = self.system.route_of(node, self.pid, signal)
        waits = self.system.send(route, [module, function, args])
        if waits is not None:
            await waits

    async def rpc(
        self, node: Atom, module: Atom, function: Atom, args: list[Term], timeout: float | None
    ) -> Term:
        """`rpc:call` as before OTP 23: calls `rex`, which old nodes support as well."""
        timeout = remaining(timeout)
        what = f"{module}:{function}/{len(args)} on {node}"
        request = (_CALL, module, function, args, _USER)
        answer = await gen_call(self, (_REX, node), request, timeout, what=what)
        match answer:
            case ("badrpc", ("EXIT", (reason, list(stack)))):
                raise CallError(what, ErrorClass.ERROR, reason, stack)
            case ("badrpc", ("EXIT", reason)):
                raise CallError(what, ErrorClass.EXIT, reason, ())
            case ("badrpc", reason):
                raise CallError(what, ErrorClass.ERROR, reason, ())
        return answer

    async def gen_call(
        self, to: Pid | tuple[Atom, Atom], request: Term, timeout: float | None
    ) -> Term:
        """`gen_server:call(To, Request, Timeout)`. See `runtime.calls.gen_call`."""
        self._check(to.node if isinstance(to, Pid) else to[1])
        return await gen_call(self, to, request, remaining(timeout))

    def gen_request(self, to: Pid | tuple[Atom, Atom], request: Term) -> CallRequest:
        """`gen_server:send_request(To, Request)`. Raises EtfEncodeError."""
        return CallRequest(GenCall(self, to, request))

    def ask(self, node: Atom, name: Atom, message: Term) -> None:
        """Sends a message and ignores the answer."""
        self.system.emit_if_connected(node, self.pid, signals.Message(self.pid, name), message)

    def ended_error(self) -> Exception:
        """Returns the exception for calls after the process has ended."""
        return NotRunning(f"{self.system.name} has stopped")

    def _check(self, node: Atom) -> None:
        """Raises NoConnection if the node may not be called."""


class ConnectedCaller(Caller):
    """Calls connected nodes only."""

    def _check(self, node: Atom) -> None:
        if node is not self.system.name and not self.system.network.is_up(node):
            raise NoConnection(node, "not connected", Cause.NOT_CONNECTED)
