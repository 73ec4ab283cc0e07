"""Larger Whispers on a CPU: mwc int8 beside CTranslate2 int8, which is what faster-whisper runs.

    python benchmarks/sizes.py small large-v3-turbo

Their weights are random ones (random_checkpoint.py), the same for both. Windows of 30 s of noise,
from samples to 10 and to 100 tokens, greedy, without timestamps, one window or several at a time:
the first is an encode for the most part, the difference 90 steps. For CTranslate2 the log-mel is
faster-whisper's. Each engine in a process of its own, in turn, round after round. Results go to
benchmarks/results/<name>.md and .json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from compile_time import SIZES, spec_of
from machine import machine, machine_lines, memory, say
from random_checkpoint import write_random_checkpoint
from weights import CACHE

RESULTS = Path(__file__).resolve().parent / "results"
MULTILINGUAL = tuple(size for size in SIZES if not size.endswith(".en"))
TOKENS = (10, 100)
"""How many are chosen in each window."""
SAMPLES = 480_000
"""Of a window: 30 s."""
LOUDNESS = 0.1
"""Of the noise, as its standard deviation."""
ENGINES = ("mwc int8", "CTranslate2 int8")

Choose = Callable[[int], int]
"""From all windows' samples to so many tokens of each; tells how many there are together."""


@dataclass(frozen=True)
class Job:
    """What a process does: each number of tokens `repeats` times, and once before."""

    engine: str
    weights: str
    size: str
    rows: int
    threads: int
    repeats: int


@dataclass(frozen=True)
class Measured:
    """Medians, in seconds: from samples to each window's first ten tokens, and to all; peak MiB."""

    first: float
    last: float
    peak_mib: float

    @property
    def step(self) -> float:
        """One more token of all windows."""
        return (self.last - self.first) / (TOKENS[1] - TOKENS[0])


def windows_of(rows: int) -> list[Any]:
    """float32 [480000] of each window: noise."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(SAMPLES, np.float32) * np.float32(LOUDNESS) for _ in range(rows)]


def mwc(job: Job) -> Choose:
    """Load an artifact."""
    from mwc.runtime import load

    model = load(job.weights, threads=job.threads)
    windows, eot = windows_of(job.rows), spec_of(job.size).tokens.eot

    def choose(count: int) -> int:
        results = model.transcribe_many(
            windows, batch_size=job.rows, language="en", temperature=0.0, without_timestamps=True,
            suppress_tokens=[eot], sample_len=count, no_speech_threshold=None,
        )  # fmt: skip
        return sum(len(segment.tokens) for result in results for segment in result.segments)

    return choose


def ctranslate2(job: Job) -> Choose:
    """Load a CTranslate2 folder."""
    import ctranslate2
    from faster_whisper.feature_extractor import FeatureExtractor

    model = ctranslate2.models.Whisper(
        job.weights, device="cpu", compute_type="int8", intra_threads=job.threads
    )
    extract = FeatureExtractor(feature_size=model.n_mels)
    windows, tokens = windows_of(job.rows), spec_of(job.size).tokens
    prompt = [tokens.sot, dict(tokens.languages)["en"], tokens.transcribe, tokens.no_timestamps]
    frames = SAMPLES // 160

    def choose(count: int) -> int:
        mels = np.stack([extract(window)[:, :frames] for window in windows]).astype(np.float32)
        encoded = model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mels)))
        results = model.generate(
            encoded, [prompt] * job.rows, beam_size=1, suppress_blank=False,
            suppress_tokens=[tokens.eot], max_length=2 * count,  # half of it for what is new
        )  # fmt: skip
        return sum(len(result.sequences_ids[0]) for result in results)

    return choose


def measure(job: Job) -> Measured:
    """Do a job in this process."""
    choose = mwc(job) if job.engine.startswith("mwc") else ctranslate2(job)
    seconds = []
    for count in TOKENS:
        got = choose(count)
        if got != count * job.rows:
            raise SystemExit(f"{job.engine} chose {got} tokens instead of {count * job.rows}")
        runs = []
        for _ in range(job.repeats):
            begin = time.perf_counter()
            choose(count)
            runs.append(time.perf_counter() - begin)
        seconds.append(median(runs))
    return Measured(*seconds, memory("VmHWM"))


def measure_apart(job: Job) -> Measured:
    """Do a job in a process of its own."""
    with tempfile.NamedTemporaryFile(prefix="mwc-bench-") as result:
        environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
        line = [sys.executable, __file__, "--job", json.dumps(asdict(job)), result.name]
        subprocess.run(line, env=environment, check=True)
        return Measured(**json.loads(Path(result.name).read_text()))


def weights_of(size: str) -> dict[str, str]:
    """What each engine loads, made where it is not there."""
    from mwc.compiler import ConvertOptions, convert

    folder = CACHE / f"random-{size}"
    checkpoint = write_random_checkpoint(size, folder / "ctranslate2")
    options = ConvertOptions(precision="int8", force=True, verify=False)
    artifact = convert(str(checkpoint), folder / "artifact-int8", options).artifact
    return dict(zip(ENGINES, (str(artifact), str(checkpoint)), strict=True))


def median_of(rounds: Sequence[Measured]) -> Measured:
    """Of each figure."""
    figures = zip(*(asdict(measured).values() for measured in rounds), strict=True)
    return Measured(*map(median, figures))


def report(title: list[str], found: dict[str, dict[str, Measured]]) -> str:
    """A row for each size and number of windows, with both engines' figures and their ratio."""
    parts = (f"to {TOKENS[1]} tokens, s", f"to {TOKENS[0]}, s", "a step, ms")
    head = ["", *(f"{part} | | " for part in parts), "peak, MiB"]
    lines = [*title, "", "| " + " | ".join(head) + " |", "|---" * 11 + "|"]
    for name, engines in found.items():
        ours, theirs = (engines[engine] for engine in ENGINES)
        pairs = (
            (ours.last, theirs.last),
            (ours.first, theirs.first),
            (1e3 * ours.step, 1e3 * theirs.step),
        )
        cells = [f"{x:.2f} | {y:.2f} | {y / x:.1f}" for x, y in pairs]
        peaks = f"{ours.peak_mib:.0f}, {theirs.peak_mib:.0f}"
        lines.append("| " + " | ".join([name, *cells, peaks]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("sizes", nargs="*", metavar="SIZE", help=", ".join(MULTILINGUAL))
    add("--rows", nargs="+", type=int, default=[1], help="windows at a time")
    add("--threads", type=int, default=2)
    add("--rounds", type=int, default=3)
    add("--repeats", type=int, default=3, help="runs of each round; their median counts")
    add("--name", default="sizes")
    add("--job", nargs=2, metavar=("JOB", "RESULT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        job = Job(**json.loads(given.job[0]))
        Path(given.job[1]).write_text(json.dumps(asdict(measure(job))))
        return
    if not given.sizes or not set(given.sizes) <= set(MULTILINGUAL):
        parser.error(f"name one or more of {', '.join(MULTILINGUAL)}")
    about = machine(["mwc", "max", "ctranslate2", "faster-whisper"])
    found: dict[str, dict[str, Measured]] = {}
    for size in given.sizes:
        weights = weights_of(size)
        for rows in given.rows:
            rounds: dict[str, list[Measured]] = {name: [] for name in ENGINES}
            for _ in range(given.rounds):
                for name in ENGINES:
                    job = Job(name, weights[name], size, rows, given.threads, given.repeats)
                    rounds[name].append(measure_apart(job))
                    say(f"{size}, {rows} at a time, {name}: {rounds[name][-1]}")
            what = "1 window" if rows == 1 else f"{rows} windows"
            found[f"{size}, {what}"] = {name: median_of(each) for name, each in rounds.items()}
    title = [f"# {given.name}: larger models, random weights", "", *machine_lines(about), ""]
    title += [
        f"30 s windows, {given.threads} threads, from samples, medians of {given.rounds} rounds; "
        f"each time {ENGINES[0]}, {ENGINES[1]} and their ratio: above 1, mwc is faster."
    ]
    text = report(title, found)
    (RESULTS / f"{given.name}.md").write_text(text)
    measured = {k: {n: asdict(m) for n, m in v.items()} for k, v in found.items()}
    (RESULTS / f"{given.name}.json").write_text(json.dumps({**about, "sizes": measured}, indent=1))
    print(text)


if __name__ == "__main__":
    main()
