from quicdist.carriers.quic.engine import Batch

class Flows:
    def receive(self, fd: int, limit: int, frames: bool) -> tuple[list[Batch], int, int]: ...
    def put(
        self,
        fd: int,
        sender: tuple[str, int],
        match: bytes,
        out: int,
        to: tuple[str, int],
        head: bytes,
        budget: int,
        seconds: float,
    ) -> None: ...
    def clear(self) -> None: ...
