"""The events that aioquic and qh3 queue. Both libraries give them the same names and fields."""

from __future__ import annotations

from collections import deque
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar

from quicdist.carriers.quic.engine import EngineSink


class _Queueing(Protocol):
    _events: deque[Any]


_Quic = TypeVar("_Quic", bound=_Queueing)


class LibraryEvents(Generic[_Quic]):
    """A connection whose library queues events: the part that the adapters share."""

    kinds: ModuleType
    """The module of the library with the classes of its events."""

    _quic: _Quic
    _refused: set[int]
    """Streams whose data is dropped."""
    _received: int
    """Bytes of stream data that were taken from the queue."""

    def drain(self, sink: EngineSink) -> None:
        """Reports all events since the last call to `sink`."""
        queue = self._quic._events
        kinds = self.kinds
        while queue:
            event = queue.popleft()
            if isinstance(event, kinds.StreamDataReceived):
                self._received += len(event.data)
                if event.stream_id in self._refused:
                    continue
                if event.data:
                    sink.stream_data(event.stream_id, event.data)
                if event.end_stream:
                    sink.stream_ended(event.stream_id, "finished")
            elif isinstance(event, kinds.StreamReset):
                sink.stream_ended(event.stream_id, f"reset ({event.error_code})")
            elif isinstance(event, kinds.StopSendingReceived):
                sink.stream_ended(event.stream_id, f"stopped ({event.error_code})")
            elif isinstance(event, kinds.HandshakeCompleted):
                sink.handshake_completed(event.alpn_protocol or "")
            elif isinstance(event, kinds.ConnectionIdIssued):
                sink.connection_id_issued(event.connection_id)
            elif isinstance(event, kinds.ConnectionIdRetired):
                sink.connection_id_retired(event.connection_id)
