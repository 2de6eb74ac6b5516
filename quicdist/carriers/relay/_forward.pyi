from quicdist.carriers.quic.engine import Batch

class Flows:
    def receive(
        self, fd: int, limit: int, frames: bool, stay: float
    ) -> tuple[list[Batch], list[tuple[int, Batch]], tuple[int, int, int, int]]: ...
    def watch(self, fd: int, frames: bool) -> None: ...
    def unwatch(self, fd: int) -> None: ...
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
