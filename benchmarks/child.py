"""One engine in a process of its own: load, a short clip, the long file, more clips, one by one.

Times and memory as JSON:

python benchmarks/child.py JOB.json RESULT.json
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from engines import ENGINES, GREEDY
from machine import memory


@dataclass(frozen=True)
class Job:
    """What the process does.

    Attributes:
        engine: a name in `ENGINES`.
        weights: what the engine loads.
        short: the clip whose first text is timed.
        audio: the file whose transcription is timed.
        language: of both.
        threads: how many; the process is also kept on that many CPUs.
        timestamps: whether segments within a window are asked for.
        transcript: what is said in the long file; empty where that is not known.
        beam_size: hypotheses; 1 for greedy decoding.
        clips: files to transcribe one at a time, and what is said in each.
        begun: `time.monotonic()` in the parent, just before this process was started.
    """

    engine: str
    weights: str
    short: str
    audio: str
    language: str
    threads: int
    timestamps: bool
    transcript: str
    beam_size: int
    clips: dict[str, str]
    begun: float


@dataclass(frozen=True)
class Measured:
    """What it took; seconds and MiB.

    Attributes:
        loaded: from the start of the process to the model loaded, imports included.
        load: loading alone, with the engine's imports.
        first_text: from the start of the process to the first text of the short clip.
        transcribe: the long file, from its path to its last segment.
        long_first_text: the long file, from its path to its first text.
        peak_mib: the most memory resident at once (VmHWM), pages of mapped files included.
        anonymous_mib: resident at the end and not backed by a file (RssAnon).
        mapped_mib: resident at the end and backed by a file: libraries, mapped weights (RssFile).
        words: of the long file, as a check that the same work was done.
        segments: of the long file.
        error_rate: word errors of the long file over its words; None where they are not known.
        clips: all short clips, one after the other; None where there are none.
        clips_error_rate: their word errors over their words; None likewise.
    """

    loaded: float
    load: float
    first_text: float
    transcribe: float
    long_first_text: float
    peak_mib: float
    anonymous_mib: float
    mapped_mib: float
    words: int
    segments: int
    error_rate: float | None
    clips: float | None
    clips_error_rate: float | None


class Heard:
    """Remembers when it was first called."""

    def __init__(self) -> None:
        """Start without a time."""
        self.at: float | None = None

    def __call__(self) -> None:
        """Take the time, the first time."""
        if self.at is None:
            self.at = time.monotonic()

    def since(self, begin: float) -> float:
        """Seconds from `begin`; infinite where nothing was heard."""
        return float("inf") if self.at is None else self.at - begin


def measure(job: Job) -> Measured:
    """Do the job in this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])
    engine = ENGINES[job.engine]()
    begin = time.monotonic()
    engine.load(Path(job.weights), job.threads)
    loaded = time.monotonic()
    short = Heard()
    beams = {} if job.beam_size == 1 else {"beam_size": job.beam_size}
    how = job.language, job.timestamps
    options = {**GREEDY, **beams}
    engine.transcribe(Path(job.short), *how, short, options)
    long, start = Heard(), time.monotonic()
    result = engine.transcribe(Path(job.audio), *how, long, options)
    end = time.monotonic()
    peak, anonymous, mapped = (memory(name) for name in ("VmHWM", "RssAnon", "RssFile"))
    from mwc.compiler.word_errors import word_errors  # not before: no engine is to pay for it

    errors = word_errors([job.transcript], [result.text], job.language) if job.transcript else None
    begin_clips = time.monotonic()
    texts = [engine.transcribe(Path(clip), *how, options=options).text for clip in job.clips]
    clips = time.monotonic() - begin_clips
    return Measured(
        loaded=loaded - job.begun,
        load=loaded - begin,
        first_text=short.since(job.begun),
        transcribe=end - start,
        long_first_text=long.since(start),
        peak_mib=peak,
        anonymous_mib=anonymous,
        mapped_mib=mapped,
        words=len(result.text.split()),
        segments=len(result.pieces),
        error_rate=None if errors is None else errors.rate,
        clips=clips if texts else None,
        clips_error_rate=(
            word_errors(list(job.clips.values()), texts, job.language).rate if texts else None
        ),
    )


if __name__ == "__main__":
    measured = measure(Job(**json.loads(Path(sys.argv[1]).read_text())))
    Path(sys.argv[2]).write_text(json.dumps(asdict(measured)))
