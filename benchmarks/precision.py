"""Word errors of int8 beside float32 and faster-whisper, over several starts of one file.

    python benchmarks/precision.py --source pkg:tiny.en --name precision-tiny.en

Where windows happen to begin changes one word in a hundred, far more than 8 bits do. So the file is
transcribed several times, each time without its first tenths of a second, in which nobody speaks,
and the rates are averaged. Greedy, one window after the other and in batches of 8.
Results go to benchmarks/results/<name>.md and .json.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from engines import Engine, FasterWhisper, Mwc
from machine import machine, machine_lines
from speech_corpus import CORPUS, read_corpus
from weights import artifact_of, ctranslate2_folder

from mwc.compiler.word_errors import word_errors
from mwc.runtime.audio import read_samples

RESULTS = Path(__file__).resolve().parent / "results"
CLIP = "long/synthetic.flac"
STARTS = (0.0, 0.1, 0.2, 0.3, 0.4)
"""Seconds; speech begins after half a second."""
RATE = 16000


def measure(engine: Engine, weights: Path, samples: Any, said: str, threads: int) -> list[float]:
    """The word error rate from each start."""
    engine.load(weights, threads)
    texts = [
        engine.transcribe(samples[round(start * RATE) :], "en", timestamps=True).text
        for start in STARTS
    ]
    return [word_errors([said], [text], "en").rate for text in texts]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", default="pkg:tiny.en")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="precision-tiny.en")
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
    for name, engine, weights in engines:
        rates[name] = measure(engine, weights, samples, clip.transcript, given.threads)
        print(name, *(f"{100 * rate:.2f}" for rate in rates[name]), flush=True)
    lines = [f"# {given.name}: word errors over {len(STARTS)} starts", "", *machine_lines(found)]
    lines += ["", f"{CLIP}, greedy, one window after the other unless a batch is named.", ""]
    lines += ["| engine | mean | least to most |", "|---|---|---|"]
    for name, values in rates.items():
        least, most = (f"{100 * value:.2f}" for value in (min(values), max(values)))
        lines.append(f"| {name} | {100 * mean(values):.2f} % | {least} to {most} |")
    text = "\n".join(lines) + "\n"
    (RESULTS / f"{given.name}.md").write_text(text)
    (RESULTS / f"{given.name}.json").write_text(json.dumps({**found, "rates": rates}, indent=1))
    print(text)


if __name__ == "__main__":
    main()
