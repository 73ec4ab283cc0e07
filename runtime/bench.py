"""How fast a loaded artifact is, entry point by entry point, beside the floor of this machine.

Every entry point runs on made-up data of its real shapes; then a clip is transcribed greedily, from
its file to its last segment.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mwc.runtime.bench_cases import (
    ENCODE,
    LOG_MEL,
    PREFILL,
    ROW_SLOTS,
    ROWS,
    Case,
    cases_of,
    drafted_name,
    fill_slots,
    step_name,
)
from mwc.runtime.floor import Rates, measure_rates
from mwc.runtime.model import Model, load
from mwc.runtime.platform import cpu_model, usable_cpus
from mwc.runtime.progress import Progress, ProgressEvent, silent
from mwc.runtime.session import Session
from mwc.runtime.transcript import Transcript
from mwc.runtime.weight_file import tensor_bytes

STAGE_SECONDS = 1.0
"""For how long an entry point is run over and over; at least LEAST_RUNS times."""

LEAST_RUNS = 10

MIB = 1 << 20


@dataclass(frozen=True)
class Stage:
    """One entry point.

    Attributes:
        name: what ran.
        seconds: of the median run.
        p95: seconds that 95 % of the runs did not exceed.
        runs: how many there were.
        floor: seconds that it takes at least on this machine; None where that is not known.
        tokens: tokens that come out of one run.
    """

    name: str
    seconds: float
    p95: float
    runs: int
    floor: float | None
    tokens: int = 0

    @property
    def ratio(self) -> float | None:
        """Its time over its floor."""
        return self.seconds / self.floor if self.floor else None

    @property
    def tokens_per_second(self) -> float | None:
        """None where no tokens come out."""
        return self.tokens / self.seconds if self.tokens else None


@dataclass(frozen=True)
class ClipTime:
    """Transcribing one clip, greedily, from its file to its last segment.

    Attributes:
        audio: its name.
        duration: its seconds.
        seconds: of the median run.
        runs: how many there were.
        windows: windows decoded.
        tokens: tokens in its segments.
        floor: seconds that the entry points take at least for as many windows and tokens.
    """

    audio: str
    duration: float
    seconds: float
    runs: int
    windows: int
    tokens: int
    floor: float | None

    @property
    def real_time_factor(self) -> float:
        """Seconds of audio in one second."""
        return self.duration / self.seconds


@dataclass(frozen=True)
class BenchReport:
    """What `bench` measured.

    Attributes:
        artifact: its folder.
        target: name of the target that ran.
        precision: of its weights.
        kv_dtype: of its attention caches.
        cpu: the CPU's name.
        threads: that worked.
        load_seconds: from the folder to a model ready to transcribe.
        load_stages: seconds of each stage of that, as `Model.load_seconds` has them.
        load_floor: seconds that reading its weights once takes at least; None on a GPU.
        rates: what the machine can do at most; None on a GPU.
        stages: the entry points.
        clip: a transcription.
        memory: resident MiB of this process: "peak" before the machine's rates were measured,
            "private" and "mapped" (weights, libraries) then; and what has to be somewhere, here or
            on the device: the "weights" and "caches" of as many windows and rows as were timed.
    """

    artifact: str
    target: str
    precision: str
    kv_dtype: str
    cpu: str
    threads: int
    load_seconds: float
    load_stages: dict[str, float]
    load_floor: float | None
    rates: Rates | None
    stages: tuple[Stage, ...]
    clip: ClipTime
    memory: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values, what follows from it included."""
        data = asdict(self)
        for stored, stage in zip(data["stages"], self.stages, strict=True):
            stored |= {"ratio": stage.ratio, "tokens_per_second": stage.tokens_per_second}
        data["clip"]["real_time_factor"] = self.clip.real_time_factor
        data["load_ratio"] = self.load_ratio
        data["memory"]["ratio"] = self.memory_ratio
        return data

    @property
    def load_ratio(self) -> float | None:
        """How long it took to load over its floor."""
        return self.load_seconds / self.load_floor if self.load_floor else None

    @property
    def memory_ratio(self) -> float:
        """The most that was resident over what weights and caches hold."""
        return self.memory["peak"] / (self.memory["weights"] + self.memory["caches"])


def bench(
    path: str | Path,
    audio: str | Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    rounds: int = 3,
    progress: Progress = silent,
) -> BenchReport:
    """Measure an artifact.

    Args:
        path: the artifact.
        audio: a clip to transcribe.
        device: as for `load`.
        threads: as for `load`.
        rounds: how often the clip is transcribed, after once that does not count.
        progress: told the stages done.

    Raises:
        MwcError: as for `load` and `Model.transcribe`.
    """
    begin = time.perf_counter()
    model = load(path, device, threads)
    load_seconds = time.perf_counter() - begin
    target = model.session.target
    n_threads = threads or usable_cpus()
    cases = tuple(cases_of(model.session))
    step = _counter(progress, len(cases) + rounds + 2)
    transcript, clip_seconds = _time_clip(model, audio, rounds, step)
    seconds = _time_cases(model.session, cases, step)
    weights = sum(map(tensor_bytes, model.session.stored.tensors))
    caches = model.session.caller.held_bytes()
    memory = memory_mib() | {"weights": weights / MIB, "caches": caches / MIB}
    step("this machine")
    rates = measure_rates(n_threads) if target.device == "cpu" else None
    stages = tuple(map(partial(_stage, rates), cases, seconds))
    return BenchReport(
        artifact=str(path),
        target=target.name,
        precision=target.precision,
        kv_dtype=target.kv_dtype,
        cpu=cpu_model(),
        threads=n_threads,
        load_seconds=load_seconds,
        load_stages=model.load_seconds,
        load_floor=weights / rates.bandwidth if rates else None,
        rates=rates,
        stages=stages,
        clip=_clip_time(str(audio), transcript, clip_seconds, stages),
        memory=memory,
    )


def _counter(progress: Progress, total: int) -> Callable[[str], None]:
    """Returns what tells `progress` that the next of `total` stages begins, by its name."""
    numbers = count()

    def step(what: str) -> None:
        progress(ProgressEvent(f"measure {what}", next(numbers), total, "stages"))

    return step


def _time_clip(
    model: Model, audio: str | Path, rounds: int, step: Callable[[str], None]
) -> tuple[Transcript, list[float]]:
    """Transcribe a clip once more than `rounds`: what was said, and the seconds of each round."""
    step("transcribing")
    transcript = model.transcribe(audio, temperature=0.0)
    seconds: list[float] = []
    for _ in range(rounds):
        step("transcribing")
        begin = time.perf_counter()
        transcript = model.transcribe(audio, temperature=0.0)
        seconds.append(time.perf_counter() - begin)
    return transcript, seconds


def _time_cases(
    session: Session, cases: Sequence[Case], step: Callable[[str], None]
) -> list[list[float]]:
    """The seconds of each run of every case."""
    session.reserve(max(ROWS), ROW_SLOTS)
    fill_slots(session)
    seconds: list[list[float]] = []
    for case in cases:
        step(case.name)
        seconds.append(_times(case.run))
    return seconds


def _stage(rates: Rates | None, case: Case, seconds: list[float]) -> Stage:
    """What a case's runs took, and what they would take at least."""
    return Stage(
        case.name,
        median(seconds),
        float(np.percentile(seconds, 95)),
        len(seconds),
        rates.seconds(case.work, case.speedup) if rates and case.work else None,
        case.tokens,
    )


def _clip_time(
    audio: str, transcript: Transcript, seconds: list[float], stages: tuple[Stage, ...]
) -> ClipTime:
    tokens = sum(len(segment.tokens) for segment in transcript.segments)
    windows = len(transcript.windows)
    floors = {stage.name: stage.floor for stage in stages}
    mel, encode, prefill, step = (floors[name] for name in (LOG_MEL, ENCODE, PREFILL, step_name(1)))
    floor = None
    drafted = drafted_name(1) in floors  # several tokens for one reading of weights
    if mel and encode and prefill and step and not drafted:
        floor = transcript.duration / 30 * mel + windows * (encode + prefill) + tokens * step
    return ClipTime(
        Path(audio).name,
        transcript.duration,
        median(seconds),
        len(seconds),
        windows,
        tokens,
        floor,
    )


def _times(run: Callable[[], object]) -> list[float]:
    """Seconds of each run, after one that does not count."""
    run()
    seconds: list[float] = []
    until = time.perf_counter() + STAGE_SECONDS
    while len(seconds) < LEAST_RUNS or time.perf_counter() < until:
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return seconds


def memory_mib() -> dict[str, float]:
    """This process's resident memory in MiB: its "peak", its "private" and "mapped" pages now."""
    fields = {"VmHWM": "peak", "RssAnon": "private", "RssFile": "mapped"}
    with open(f"/proc/{os.getpid()}/status", encoding="ascii", errors="replace") as status:
        lines = [line.partition(":") for line in status]
    return {
        fields[name]: int(value.split()[0]) / 1024 for name, _, value in lines if name in fields
    }
