"""Things that are closed at the end of a `with` statement."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

Self = TypeVar("Self", bound="Closing")


class Closing(ABC):
    """Something with `close`, which the end of its `with` statement calls."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what it holds; again, it does nothing."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
