"""Word errors of int8 beside float32 and faster-whisper, over several starts of one file.

    python benchmarks/precision.py --source pkg:tiny.en --name precision-tiny.en

Where windows happen to begin changes one word in a hundred, far more than 8 bits do. So the file is
transcribed several times, each time without a little more of its first half second, in which nobody
speaks, and the rates are averaged. The starts are the same for all engines, so two of them are
compared start by start. Greedy, one window after the other and in batches of 8.
Results go to benchmarks/results/<name>.md and .json.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from engines import Engine, FasterWhisper, Mwc
from machine import machine, machine_lines
from speech_corpus import CORPUS, read_corpus
from weights import artifact_of, ctranslate2_folder

from mwc.compiler.word_errors import word_errors
from mwc.runtime.audio import read_samples

RESULTS = Path(__file__).resolve().parent / "results"
CLIP = "long/synthetic.flac"
SILENCE = 0.5
"""Seconds before anybody speaks."""
RATE = 16000
COMPARED = (
    ("mwc int8", "mwc float32"),
    ("mwc int8", "faster-whisper int8"),
    ("faster-whisper int8", "faster-whisper float32"),
)


def measure(
    engine: Engine, weights: Path, samples: Any, said: str, threads: int, starts: int
) -> list[float]:
    """The word error rate from each start."""
    engine.load(weights, threads)
    skipped = [round(SILENCE * RATE * k / starts) for k in range(starts)]
    texts = [engine.transcribe(samples[skip:], "en", timestamps=True).text for skip in skipped]
    return [word_errors([said], [text], "en").rate for text in texts]


def comparison(name: str, other: str, rates: dict[str, list[float]]) -> str:
    """A line about the differences of two engines at the same starts."""
    differences = [100 * (a - b) for a, b in zip(rates[name], rates[other], strict=True)]
    error = stdev(differences) / len(differences) ** 0.5
    return f"- {name} less {other}: {mean(differences):+.2f} points, standard error {error:.2f}"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", default="pkg:tiny.en")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="precision-tiny.en")
    parser.add_argument("--starts", type=int, default=5, help="at least 2")
    parser.add_argument("--engines", nargs="+", help="by the names in the table; default all")
    given = parser.parse_args()
    found = machine(["mwc", "max", "faster-whisper", "ctranslate2"])
    (clip,) = [clip for clip in read_corpus(CORPUS) if clip.name == CLIP]
    samples = read_samples(clip.path)
    rates: dict[str, list[float]] = {}
    exact, int8 = artifact_of(given.source), artifact_of(given.source, "int8")
    theirs = ctranslate2_folder(given.source)
    engines: tuple[tuple[str, Engine, Path], ...] = (
        ("mwc float32", Mwc(), exact),
        ("mwc int8", Mwc(), int8),
        ("faster-whisper int8", FasterWhisper("int8"), theirs),
        ("faster-whisper float32", FasterWhisper("float32"), theirs),
        ("mwc float32, batch 8", Mwc(8), exact),
        ("mwc int8, batch 8", Mwc(8), int8),
        ("faster-whisper int8, batch 8", FasterWhisper("int8", 8), theirs),
    )
    names = [name for name, _, _ in engines]
    if given.starts < 2 or not set(given.engines or names) <= set(names):
        parser.error(f"--starts is 2 or more, and --engines are some of {', '.join(names)}")
    for name, engine, weights in engines:
        if name not in (given.engines or names):
            continue
        rates[name] = measure(
            engine, weights, samples, clip.transcript, given.threads, given.starts
        )
        print(name, *(f"{100 * rate:.2f}" for rate in rates[name]), flush=True)
    lines = [f"# {given.name}: word errors over {given.starts} starts", "", *machine_lines(found)]
    lines += ["", f"{CLIP}, greedy, one window after the other unless a batch is named.", ""]
    lines += ["| engine | mean | least to most |", "|---|---|---|"]
    for name, values in rates.items():
        least, most = (f"{100 * value:.2f}" for value in (min(values), max(values)))
        lines.append(f"| {name} | {100 * mean(values):.2f} % | {least} to {most} |")
    pairs = [pair for pair in COMPARED if set(pair) <= set(rates)]
    lines += ["", "At the same starts:", "", *(comparison(*pair, rates) for pair in pairs)]
    text = "\n".join(lines) + "\n"
    (RESULTS / f"{given.name}.md").write_text(text)
    (RESULTS / f"{given.name}.json").write_text(json.dumps({**found, "rates": rates}, indent=1))
    print(text)


if __name__ == "__main__":
    main()
