"""quicdist makes a Python program a node of an Erlang or Elixir cluster, over QUIC or TCP.

>>> from quicdist import Atom, Node  # doctest: +SKIP
>>> async with Node("4433@127.0.0.1", cookie="secret") as node:  # doctest: +SKIP
...     print(await node.call("5555@127.0.0.1", "erlang", "system_info", [Atom("otp_release")]))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from quicdist import log_escaping

if TYPE_CHECKING:
    from quicdist.blocking import (
        BlockingMailbox,
        BlockingNode,
        BlockingRequest,
        BlockingStream,
        Shared,
        blocking_node,
        connect,
    )
    from quicdist.carriers.quic.tracing import Tracing
    from quicdist.carriers.trust import Identity, Trust
    from quicdist.cluster.access import Access, Tracebacks
    from quicdist.cluster.dns import DnsSrv
    from quicdist.cluster.lan import Lan, LanNode
    from quicdist.cluster.lookup import Epmd, PortInName, Table
    from quicdist.cluster.policy import Policy
    from quicdist.cluster.policy_file import PolicyError, read_policy
    from quicdist.cluster.quic import Quic
    from quicdist.cluster.retry import Retry
    from quicdist.cluster.tcp import EpmdUse, Tcp
    from quicdist.cluster.tls import Tls
    from quicdist.errors import (
        CallError,
        CallNotPossible,
        CallTimeout,
        Cause,
        CookieError,
        ErlangError,
        ErlangExit,
        ErlangThrow,
        ErrorClass,
        ExportError,
        MailboxFull,
        NameTaken,
        NoConnection,
        NodeError,
        NodeNameError,
        NoProcess,
        NotRunning,
        NotVisible,
        ProcessExited,
        QuicdistError,
        ReceiveTimeout,
        SettingError,
        SpawnError,
        StartError,
    )
    from quicdist.etf import (
        Atom,
        BitString,
        ErlMap,
        EtfDecodeError,
        EtfEncodeError,
        Export,
        Fun,
        ImproperList,
        NativeRecord,
        Pid,
        Port,
        Reference,
    )
    from quicdist.kernel.current_call import CurrentCall, current_call
    from quicdist.kernel.exports import Run, export
    from quicdist.kernel.shell import shell
    from quicdist.kernel.streams.consumer import Stream, open_stream
    from quicdist.kernel.streams.window import StreamWindow
    from quicdist.limits import MailboxLimits, NodeLimits, WhenFull
    from quicdist.node.events import NodeDown, NodeEvent, NodeUp
    from quicdist.node.info import NodeStatistics, PeerInfo
    from quicdist.node.node import Node
    from quicdist.runtime.aliases import AliasMode
    from quicdist.runtime.calls import CallRequest, Spawned
    from quicdist.runtime.local_spawn import current_process
    from quicdist.runtime.mailbox import Mailbox

__all__ = [
    "Access",
    "AliasMode",
    "Atom",
    "BitString",
    "BlockingMailbox",
    "BlockingNode",
    "BlockingRequest",
    "BlockingStream",
    "CallError",
    "CallNotPossible",
    "CallRequest",
    "CallTimeout",
    "Cause",
    "CookieError",
    "CurrentCall",
    "DnsSrv",
    "Epmd",
    "EpmdUse",
    "ErlMap",
    "ErlangError",
    "ErlangExit",
    "ErlangThrow",
    "ErrorClass",
    "EtfDecodeError",
    "EtfEncodeError",
    "Export",
    "ExportError",
    "Fun",
    "Identity",
    "ImproperList",
    "Lan",
    "LanNode",
    "Mailbox",
    "MailboxFull",
    "MailboxLimits",
    "NameTaken",
    "NativeRecord",
    "NoConnection",
    "NoProcess",
    "Node",
    "NodeDown",
    "NodeError",
    "NodeEvent",
    "NodeLimits",
    "NodeNameError",
    "NodeStatistics",
    "NodeUp",
    "NotRunning",
    "NotVisible",
    "PeerInfo",
    "Pid",
    "Policy",
    "PolicyError",
    "Port",
    "PortInName",
    "ProcessExited",
    "Quic",
    "QuicdistError",
    "ReceiveTimeout",
    "Reference",
    "Retry",
    "Run",
    "SettingError",
    "Shared",
    "SpawnError",
    "Spawned",
    "StartError",
    "Stream",
    "StreamWindow",
    "Table",
    "Tcp",
    "Tls",
    "Tracebacks",
    "Tracing",
    "Trust",
    "WhenFull",
    "blocking_node",
    "connect",
    "current_call",
    "current_process",
    "export",
    "open_stream",
    "read_policy",
    "shell",
]

# Imported on first use, because the command's --help and its completion do not need them.
_PLACES = {
    "blocking": "BlockingMailbox BlockingNode BlockingRequest BlockingStream Shared "
    "blocking_node connect",
    "carriers.quic.tracing": "Tracing",
    "carriers.trust": "Identity Trust",
    "cluster.access": "Access Tracebacks",
    "cluster.policy": "Policy",
    "cluster.policy_file": "PolicyError read_policy",
    "etf": "Atom BitString ErlMap EtfDecodeError EtfEncodeError Export Fun ImproperList "
    "NativeRecord Pid Port Reference",
    "runtime.aliases": "AliasMode",
    "cluster.dns": "DnsSrv",
    "cluster.lan": "Lan LanNode",
    "node.events": "NodeDown NodeEvent NodeUp",
    "kernel.current_call": "CurrentCall current_call",
    "kernel.exports": "Run export",
    "node.info": "NodeStatistics PeerInfo",
    "limits": "MailboxLimits NodeLimits WhenFull",
    "cluster.lookup": "Epmd PortInName Table",
    "runtime.mailbox": "Mailbox",
    "node.node": "Node",
    "cluster.quic": "Quic",
    "cluster.retry": "Retry",
    "kernel.shell": "shell",
    "kernel.streams.consumer": "Stream open_stream",
    "kernel.streams.window": "StreamWindow",
    "runtime.local_spawn": "current_process",
    "cluster.tcp": "EpmdUse Tcp",
    "cluster.tls": "Tls",
    "runtime.calls": "CallRequest Spawned",
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


log_escaping.install()
