"""Base class for objects that tests start and that `with` closes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

T = TypeVar("T", bound="Closing")


class Closing(ABC):
    """Something that runs until `close`."""

    @abstractmethod
    def close(self) -> None:
        """Stops it and waits until it has exited."""

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
