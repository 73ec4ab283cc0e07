"""How long work reports where it stands: a callback that takes one small event.

Converting, verifying, checking and transcribing all call the same kind of function; the command
line turns the events into bars on stderr, an application into whatever it shows its users.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressEvent:
    """One report of progress.

    Attributes:
        stage: what is being done, for people: "weights", "compile cpu", "transcribe".
        done: how much of it is done, in `unit`.
        total: how much there is in all, or None where it cannot be known.
        unit: "bytes", "seconds" (of audio), "graphs", "files", "stages".
    """

    stage: str
    done: float
    total: float | None
    unit: str


Progress = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """The progress callback that shows nothing."""
