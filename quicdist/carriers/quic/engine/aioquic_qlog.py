"""Writes aioquic's qlog events as they occur.

aioquic's own logger keeps all events in memory until the end of the connection, and writes none if
the peer closes the connection.
"""

from __future__ import annotations

from aioquic.quic.logger import QuicLogger, QuicLoggerTrace

from quicdist.carriers.quic.tracing import QlogDirectory, QlogFile


class QlogTrace(QuicLoggerTrace):
    """The qlog events of one connection."""

    def __init__(self, *, is_client: bool, odcid: bytes, file: QlogFile) -> None:
        super().__init__(is_client=is_client, odcid=odcid)
        self._file = file

    def flush(self) -> None:
        """Writes the pending events.

        Must not be called while a datagram is processed: aioquic logs a packet first, and adds its
        frames later.
        """
        if self._events:
            self._file.write(self._events)
            self._events.clear()


class Qlog(QuicLogger):
    """Creates a trace for each connection of an endpoint."""

    def __init__(self, directory: QlogDirectory) -> None:
        super().__init__()
        self._directory = directory

    def start_trace(self, is_client: bool, odcid: bytes) -> QlogTrace:
        """Called by aioquic."""
        file = self._directory.file(odcid, is_client=is_client)
        return QlogTrace(is_client=is_client, odcid=odcid, file=file)

    def end_trace(self, trace: QuicLoggerTrace) -> None:
        """Called by aioquic."""
        assert isinstance(trace, QlogTrace)
        trace.flush()
