"""What the command says besides its result: notes, errors and progress bars, all on stderr.

Results go to stdout and only there, so that `mwc run … > text.txt` holds the text alone.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mwc.runtime.errors import readable
from mwc.runtime.progress import ProgressEvent

if TYPE_CHECKING:
    from mwc.runtime import Coverage, Transcript

MOST_GAPS = 5
"""Stretches of speech without text that are named."""


def say(text: str) -> None:
    """Write one line of the command's own words to stderr, as it is, without markup."""
    print(f"mwc: {readable(text)}", file=sys.stderr, flush=True)


class Display:
    """Shows progress events as one bar per kind of work, and erases them at the end.

    Where stderr is no terminal (a pipe, a log file, `TERM=dumb`) it shows nothing. Call it with
    an event; use it as a context manager, so that the bars never outlive an error.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True)
        is_screen = self._console.is_terminal and not self._console.is_dumb_terminal
        self._shown = is_screen and not quiet
        self._quiet = quiet
        self._tasks: dict[str, TaskID] = {}
        self._live: Live | None = None
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeElapsedColumn(),
        )

    def __enter__(self) -> "Display":
        self._show()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hide()

    def __call__(self, event: ProgressEvent) -> None:
        """Show where one stage stands."""
        if not self._shown:
            return
        # "verify encoder" follows "verify log-mel" in one bar, as parts of the same work.
        work = event.stage.split()[0]
        if work not in self._tasks:
            self._tasks[work] = self._bars.add_task(event.stage, total=None, amount="")
        self._bars.update(
            self._tasks[work],
            description=event.stage,
            completed=event.done,
            total=event.total,
            amount=format_amount(event),
        )

    def note(self, text: str) -> None:
        """Write one line to stderr above the bars, unless told to be quiet."""
        if not self._quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """Write one line to stderr above the bars, quiet or not."""
        with self.aside():
            say(text)

    def clear(self) -> None:
        """Remove every bar, before the next piece of work."""
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks.clear()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bars off the terminal while something else is printed."""
        was_live = self._live is not None
        self._hide()
        try:
            yield
        finally:
            if was_live:
                self._show()

    def _show(self) -> None:
        if not self._shown:
            return
        # A new one each time: one that was stopped erases what was printed since, at its restart.
        self._live = Live(
            self._bars,
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def _hide(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def format_amount(event: ProgressEvent) -> str:
    """How much of a stage is done, in its own unit: "12.0/75.5 MB", "1:10/18:26", "3/9 graphs"."""
    if event.unit == "bytes":
        done, total, unit = (f"{event.done / 1e6:.1f}", _megabytes(event.total), " MB")
    elif event.unit == "seconds":
        done, total, unit = (format_clock(event.done), _clock(event.total), "")
    else:
        done, total, unit = (f"{event.done:g}", _count(event.total), f" {event.unit}")
    return f"{done}/{total}{unit}" if total else f"{done}{unit}"


def format_clock(seconds: float) -> str:
    """Seconds as "4:05" or "1:04:05"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_speed(audio_seconds: float, wall_seconds: float) -> str:
    """How long some audio took, for people: "10.6 s of audio in 0.52 s, 20.4 times real time"."""
    ratio = audio_seconds / max(wall_seconds, 1e-9)
    return f"{audio_seconds:.1f} s of audio in {wall_seconds:.2f} s, {ratio:.1f} times real time"


def format_language(transcript: "Transcript") -> str:
    """What was detected: "the language is German (de), probability 0.98"."""
    from mwc.runtime.languages import NAME_OF_LANGUAGE

    name = NAME_OF_LANGUAGE[transcript.language].title()
    return (
        f"the language is {name} ({transcript.language}), probability "
        f"{transcript.language_probability:.2f}"
    )


def format_coverage(coverage: "Coverage") -> str:
    """What speech has no text: "384.0 s of speech, 2.5 s of it without text: 1:04 to 1:06"."""
    if not coverage.speech:
        return f"no speech detected ({coverage.detector})"
    told = f"{coverage.speech:.1f} s of speech ({coverage.detector}), "
    if not coverage.uncovered:
        return f"{told}all of it with text"
    longest = sorted(coverage.uncovered, key=lambda gap: gap[0] - gap[1])[:MOST_GAPS]
    gaps = ", ".join(
        f"{format_clock(start)} to {format_clock(math.ceil(end))}" for start, end in sorted(longest)
    )
    more = len(coverage.uncovered) - len(longest)
    others = f" and {more} shorter ones" if more else ""
    return f"{told}{coverage.uncovered_seconds:.1f} s of it without text: {gaps}{others}"


def _megabytes(total: float | None) -> str:
    return "" if total is None else f"{total / 1e6:.1f}"


def _clock(total: float | None) -> str:
    return "" if total is None else format_clock(total)


def _count(total: float | None) -> str:
    return "" if total is None else f"{total:g}"
