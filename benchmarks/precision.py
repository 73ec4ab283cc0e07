"""Word errors of int8 beside float32 and faster-whisper, over several starts or files.

    python benchmarks/precision.py --source pkg:tiny.en --name precision-tiny.en
    python benchmarks/precision.py --source pkg:tiny.en --orders 10 --name precision-tiny.en-orders

Where windows happen to begin changes one word in a hundred, as much as 8 bits do or more. So the
long file is transcribed several times, each time without a little more of its first half second, in
which nobody speaks, and the rates are averaged. From start to start most windows begin at the same
words again, as timestamps decide where they do; `--orders` takes other files instead: all short
English clips in a random order each, with pauses. Recordings are the same for all engines, so two
of them are compared recording by recording. Greedy, one window after the other and in batches of 8.
A window in which a phrase repeats itself can take all later ones along, and a mean with it: with
`--fallback` it is decoded again at higher temperatures, as all of them do by default.
Results go to benchmarks/results/<name>.md and .json.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
import numpy.typing as npt
from engines import GREEDY, Engine, FasterWhisper, Mwc, Options
from machine import machine, machine_lines
from speech_corpus import CORPUS, Clip, read_corpus
from weights import artifact_of, ctranslate2_folder

from mwc.compiler.word_errors import word_errors
from mwc.runtime.audio import read_samples

RESULTS = Path(__file__).resolve().parent / "results"
CLIP = "long/synthetic.flac"
SILENCE = 0.5
"""Seconds before anybody speaks."""
RATE = 16000
PAUSES = (0.3, 1.5)
"""Seconds before each clip of an order, at least and at most."""
ENGINES: dict[str, tuple[Engine, str]] = {
    "mwc float32": (Mwc(), "f32"),
    "mwc int8": (Mwc(), "int8"),
    "faster-whisper int8": (FasterWhisper("int8"), "ctranslate2"),
    "faster-whisper float32": (FasterWhisper("float32"), "ctranslate2"),
    "mwc float32, batch 8": (Mwc(8), "f32"),
    "mwc int8, batch 8": (Mwc(8), "int8"),
    "faster-whisper int8, batch 8": (FasterWhisper("int8", 8), "ctranslate2"),
}
"""Each engine, and which weights it takes: an artifact by its precision, or a folder."""
FALLBACK: Options = {"temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "best_of": 5}
"""What mwc, openai-whisper and faster-whisper do where nothing is asked for."""
COMPARED = (
    ("mwc int8", "mwc float32"),
    ("mwc int8", "faster-whisper int8"),
    ("faster-whisper int8", "faster-whisper float32"),
)

Samples = npt.NDArray[np.float32]
Recording = tuple[Samples, str]
"""Samples, and what is said."""


def starts_of(clip: Clip, count: int) -> list[Recording]:
    """A clip without so much of its silence."""
    samples = read_samples(clip.path)
    skipped = [round(SILENCE * RATE * k / count) for k in range(count)]
    return [(samples[skip:], clip.transcript) for skip in skipped]


def orders_of(clips: Sequence[Clip], count: int) -> list[Recording]:
    """All clips one after the other, so often, in other orders."""
    samples = {clip.name: read_samples(clip.path) for clip in clips}
    recordings = []
    for seed in range(count):
        chance = random.Random(seed)
        order = chance.sample(clips, len(clips))
        parts: list[Samples] = []
        for clip in order:
            pause = np.zeros(round(RATE * chance.uniform(*PAUSES)), np.float32)
            parts += [pause, samples[clip.name]]
        recordings.append((np.concatenate(parts), " ".join(clip.transcript for clip in order)))
    return recordings


def measure(
    engine: Engine,
    weights: Path,
    recordings: Sequence[Recording],
    threads: int,
    options: Options = GREEDY,
) -> list[float]:
    """The word error rate of each recording."""
    engine.load(weights, threads)
    rates = []
    for samples, said in recordings:
        text = engine.transcribe(samples, "en", timestamps=True, options=options).text
        rates.append(word_errors([said], [text], "en").rate)
    return rates


def comparison(name: str, other: str, rates: dict[str, list[float]]) -> str:
    """A line about the differences of two engines on the same recordings."""
    differences = [100 * (a - b) for a, b in zip(rates[name], rates[other], strict=True)]
    error = stdev(differences) / len(differences) ** 0.5
    return f"- {name} less {other}: {mean(differences):+.2f} points, standard error {error:.2f}"


def report(title: list[str], rates: dict[str, list[float]]) -> str:
    """The rates of each engine as a table, and the differences below."""
    lines = [*title, "", "| engine | mean | median | least to most |", "|---|---|---|---|"]
    for name, values in rates.items():
        middle, least, most = (f"{100 * f(values):.2f}" for f in (median, min, max))
        lines.append(f"| {name} | {100 * mean(values):.2f} % | {middle} | {least} to {most} |")
    pairs = [pair for pair in COMPARED if set(pair) <= set(rates)]
    if pairs:
        lines += ["", "Of the same recordings:", ""]
    return "\n".join([*lines, *(comparison(*pair, rates) for pair in pairs)]) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", default="pkg:tiny.en")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="precision-tiny.en")
    parser.add_argument("--starts", type=int, default=5, help="at least 2")
    parser.add_argument("--orders", type=int, help="so many files of the short clips instead")
    parser.add_argument("--fallback", action="store_true", help="to higher temperatures")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    given = parser.parse_args()
    count = given.starts if given.orders is None else given.orders
    if count < 2:
        parser.error(f"{count} is too few; give at least 2 starts or orders")
    found = machine(["mwc", "max", "faster-whisper", "ctranslate2"])
    corpus = read_corpus(CORPUS)
    if given.orders is None:
        recordings = starts_of(next(clip for clip in corpus if clip.name == CLIP), count)
        what, of = f"{count} starts", CLIP
    else:
        english = [clip for clip in corpus if clip.group == "short" and clip.language == "en"]
        recordings = orders_of(english, count)
        seconds = len(recordings[0][0]) // RATE
        what, of = f"{count} files", f"{len(english)} short clips in random orders, {seconds} s"
    weights = {kind: artifact_of(given.source, kind) for kind in ("f32", "int8")}
    weights["ctranslate2"] = ctranslate2_folder(given.source)
    options = FALLBACK if given.fallback else GREEDY
    rates: dict[str, list[float]] = {}
    for name in given.engines:
        engine, kind = ENGINES[name]
        rates[name] = measure(engine, weights[kind], recordings, given.threads, options)
        print(name, *(f"{100 * rate:.2f}" for rate in rates[name]), flush=True)
    title = [f"# {given.name}: word errors over {what}", "", *machine_lines(found), ""]
    how = "greedy, with the fallback to higher temperatures" if given.fallback else "greedy"
    title += [f"{of}, {how}, one window after the other unless a batch is named."]
    text = report(title, rates)
    (RESULTS / f"{given.name}.md").write_text(text)
    (RESULTS / f"{given.name}.json").write_text(json.dumps({**found, "rates": rates}, indent=1))
    print(text)


if __name__ == "__main__":
    main()
