"""aioquic's own qlog events, written as they come: its logger keeps them in memory to the end,
and that of a connection which the peer closes is never reached."""

from __future__ import annotations

from aioquic.quic.logger import QuicLogger, QuicLoggerTrace

from quicdist.carriers.quic.tracing import QlogDirectory, QlogFile


class QlogTrace(QuicLoggerTrace):
    """The events of one connection."""

    def __init__(self, *, is_client: bool, odcid: bytes, file: QlogFile) -> None:
        super().__init__(is_client=is_client, odcid=odcid)
        self._file = file

    def flush(self) -> None:
        """Writes what has come. Not in the midst of a datagram: aioquic logs a packet first and
        adds its frames as it reads them."""
        if self._events:
            self._file.write(self._events)
            self._events.clear()


class Qlog(QuicLogger):
    """Begins a trace for each connection of an endpoint."""

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
