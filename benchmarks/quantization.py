"""What int8 does to the probabilities of tokens, beside what CTranslate2's int8 does to them.

    python benchmarks/quantization.py --source pkg:tiny.en --name quantization-tiny.en

Word errors tell arithmetics apart badly: of a thousand words, eight bits change a few, and what
follows from each is chance. Here every model is told the same tokens of the same windows, those
that mwc float32 finds, and is asked how likely it holds each: as many numbers as there are tokens,
whose differences from float32's are the arithmetic's and nothing else's. Windows are the short
English clips; all models get the same features, and probabilities are among the tokens of text.
Results go to benchmarks/results/<name>.md and .json.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from machine import machine, machine_lines, say
from speech_corpus import Clip, add_corpus, english, read_corpus
from token_parity import Window, windows
from weights import artifact_of, ctranslate2_folder

from mwc.runtime import load

RESULTS = Path(__file__).resolve().parent / "results"
SAMPLES = 1000
"""How often clips are drawn anew for the intervals."""
PAIR = ("mwc int8", "CTranslate2 int8")
"""Whose errors are compared."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Utterance:
    """One clip: its window, and the tokens of text that mwc float32 finds in it."""

    name: str
    window: Window
    tokens: tuple[int, ...]


class Scorer(Protocol):
    """A model that is told what is said."""

    def logprobs(self, utterance: Utterance) -> Floats:
        """The log-probability of each token after those before it, among the tokens of text."""
        ...


class MwcScorer:
    """An artifact."""

    def __init__(self, artifact: Path, threads: int) -> None:
        """Load it."""
        model = load(artifact, threads=threads)
        self._session = model.session
        self._eot = model.spec.tokens.eot
        self._prompt = model.tokenizer.sot_sequence("en", "transcribe", timestamps=False)

    def logprobs(self, utterance: Utterance) -> Floats:
        """See `Scorer.logprobs`."""
        window = utterance.window
        self._session.encode(
            window.raw[None],
            np.array([window.log_mel_max], np.float32),
            np.array([window.n_frames], np.int32),
            np.zeros(1, np.int32),
        )
        logits = self._session.logits([*self._prompt, *utterance.tokens[:-1]], window=0)
        text = logits[len(self._prompt) - 1 :, : self._eot].astype(np.float64)
        text -= text.max(axis=1, keepdims=True)
        chosen = text[np.arange(len(text)), list(utterance.tokens)]
        found: Floats = chosen - np.log(np.exp(text).sum(axis=1))
        return found


class CTranslate2Scorer:
    """A CTranslate2 folder, by the function that aligns words for faster-whisper."""

    def __init__(self, folder: Path, compute_type: str, threads: int, sot: Sequence[int]) -> None:
        """Load it, "float32" or "int8"; `sot` is the `sot_sequence` with timestamps."""
        import ctranslate2

        self._sot = list(sot)
        self._storage = ctranslate2.StorageView
        self._model: Any = ctranslate2.models.Whisper(
            str(folder), device="cpu", compute_type=compute_type, intra_threads=threads
        )

    def logprobs(self, utterance: Utterance) -> Floats:
        """See `Scorer.logprobs`."""
        features = np.ascontiguousarray(utterance.window.normalised.T[None])
        (found,) = self._model.align(
            self._storage.from_array(features), self._sot, [list(utterance.tokens)], 3000
        )
        return np.log(np.array(found.text_token_probs, np.float64)[: len(utterance.tokens)])


def find_utterances(artifact: Path, clips: Sequence[Clip], threads: int) -> list[Utterance]:
    """What mwc float32 hears, greedily and without timestamps, in the clips of one window."""
    model = load(artifact, threads=threads)
    found = []
    for clip in clips:
        heard = model.transcribe(clip.path, language="en", without_timestamps=True, temperature=0.0)
        eot = model.spec.tokens.eot
        tokens = tuple(t for s in heard.segments for t in s.tokens if t < eot)
        if tokens:
            found.append(Utterance(clip.name, next(iter(windows(model, clip.path))), tokens))
    return found


@dataclass(frozen=True)
class Errors:
    """How far one arithmetic's log-probabilities are from float32's, in nats.

    Attributes:
        rms: the root of their mean square.
        mean: the mean magnitude.
        beyond: the share of tokens that are off by more than a tenth.
    """

    rms: float
    mean: float
    beyond: float


def errors_of(differences: Floats) -> Errors:
    """Of all tokens together."""
    off = np.abs(differences)
    return Errors(
        float(np.sqrt(np.square(off).mean())), float(off.mean()), float((off > 0.1).mean())
    )


def ratio_interval(ours: list[Floats], theirs: list[Floats]) -> tuple[float, float, float]:
    """Our root mean square over theirs, and between what it lies in 95 of 100 draws of clips."""
    squares = np.array([[np.square(d).sum() for d in both] for both in (ours, theirs)])
    drawn = np.random.default_rng(0).integers(len(ours), size=(SAMPLES, len(ours)))
    low, high = np.quantile(np.sqrt(np.divide(*squares[:, drawn].sum(axis=2))), [0.025, 0.975])
    return float(np.sqrt(np.divide(*squares.sum(axis=1)))), float(low), float(high)


def report(title: list[str], differences: dict[str, list[Floats]]) -> str:
    """The errors of each arithmetic as a table, and the comparison below."""
    lines = [*title, "", "| off from float32, in nats | rms | mean | beyond 0.1 |"]
    lines.append("|---|---|---|---|")
    for name, of_clips in differences.items():
        e = errors_of(np.concatenate(of_clips))
        lines.append(f"| {name} | {e.rms:.2g} | {e.mean:.2g} | {100 * e.beyond:.1f} % |")
    if set(PAIR) <= set(differences):
        ratio, low, high = ratio_interval(*(differences[name] for name in PAIR))
        lines += [
            "",
            f"The root mean square of {PAIR[0]} is {ratio:.2f} times that of {PAIR[1]} "
            f"(95 % interval {low:.2f} to {high:.2f}, clips drawn anew {SAMPLES} times).",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_corpus(parser)
    parser.add_argument("--source", default="pkg:tiny.en")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="quantization-tiny.en")
    given = parser.parse_args()
    found = machine(["mwc", "max", "faster-whisper", "ctranslate2"])
    clips = [clip for clip in english(read_corpus(given.corpus)) if clip.group == "short"]
    artifacts = {kind: artifact_of(given.source, kind) for kind in ("f32", "int8")}
    utterances = find_utterances(artifacts["f32"], clips, given.threads)
    folder = ctranslate2_folder(given.source)
    tokenizer = load(artifacts["f32"]).tokenizer
    sot = tokenizer.sot_sequence("en", "transcribe", timestamps=True)
    logprobs: dict[str, list[Floats]] = {}
    for name, scorer in {
        "mwc float32": MwcScorer(artifacts["f32"], given.threads),
        "mwc int8": MwcScorer(artifacts["int8"], given.threads),
        "CTranslate2 float32": CTranslate2Scorer(folder, "float32", given.threads, sot),
        "CTranslate2 int8": CTranslate2Scorer(folder, "int8", given.threads, sot),
    }.items():
        say(f"{name}: {len(utterances)} clips")
        logprobs[name] = [scorer.logprobs(utterance) for utterance in utterances]
    exact = logprobs.pop("mwc float32")
    differences = {
        name: [ours - theirs for ours, theirs in zip(values, exact, strict=True)]
        for name, values in logprobs.items()
    }
    count = sum(len(utterance.tokens) for utterance in utterances)
    title = [f"# {given.name}: log-probabilities of the same tokens", "", *machine_lines(found), ""]
    title += [f"{count} tokens of text in {len(utterances)} clips, beside mwc float32's."]
    text = report(title, differences)
    (RESULTS / f"{given.name}.md").write_text(text)
    values = {name: [d.tolist() for d in of_clips] for name, of_clips in differences.items()}
    kept = {**found, "clips": [u.name for u in utterances], "differences": values}
    (RESULTS / f"{given.name}.json").write_text(json.dumps(kept))
    say("\n" + text)


if __name__ == "__main__":
    main()
