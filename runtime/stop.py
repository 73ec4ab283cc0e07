"""How a caller ends work that is under way."""

from collections.abc import Callable
from typing import Protocol

Stop = Callable[[], bool]
"""Whether to stop; asked between the calls of the model."""


class Event(Protocol):
    """What tells a transcription to stop, for example a `threading.Event`."""

    def is_set(self) -> bool:
        """Whether to stop."""
        ...


def stop_at(event: Event | None) -> Stop:
    """The question whether an event is set; without one the answer is no."""
    return (lambda: False) if event is None else event.is_set
