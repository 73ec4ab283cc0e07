"""Words beside openai/whisper's, and beside where they must be.

Times: the words of two transcripts are matched in order by their text. Places: in a recording put
together from clips, each word of the transcript that is a word of the reference has a clip in
which it was said, whose exact bounds are known.
"""

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
from engines import Result, Spoken


@dataclass(frozen=True)
class WordTimes:
    """How far the matched words of two engines are apart, absolute, in seconds.

    Attributes:
        ours: words of mwc.
        theirs: words of openai/whisper.
        differences: [starts, ends] of the matched words, those of a word after another.
        cut: words that differ only because mwc's end where their segment does, which openai/whisper
            lets a first or last word pass.
    """

    ours: int
    theirs: int
    differences: tuple[tuple[float, float], ...]
    cut: int

    def median(self) -> float:
        """Of starts and ends together."""
        return float(np.median(self.differences))

    def percentile(self, percent: float) -> float:
        """Of starts and ends together."""
        return float(np.percentile(self.differences, percent))


@dataclass(frozen=True)
class Outside:
    """A word that reaches out of its clip: seconds before its start and after its end."""

    word: str
    start: float
    end: float
    clip: int
    before: float
    after: float
    place: str


@dataclass(frozen=True)
class WordPlaces:
    """Where the words of a recording put together from clips lie.

    Attributes:
        words: words of the transcript.
        placed: those whose clip is known, by the reference text.
        inside: those of `placed` that lie wholly inside their clip.
        middle: those of `placed` whose middle does.
        outside: those of `placed` that do not, in order.
    """

    words: int
    placed: int
    inside: int
    middle: int
    outside: tuple[Outside, ...]


def spoken(result: Result) -> list[Spoken]:
    """All words of a transcript, in order."""
    return [word for piece in result.pieces for word in piece.words]


def matched(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """Index pairs of equal texts, in order."""
    matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
    return [
        (block.a + i, block.b + i)
        for block in matcher.get_matching_blocks()
        for i in range(block.size)
    ]


SAME = 0.005
"""Seconds: times are given in hundredths."""


def word_times(ours: dict[str, Result], theirs: dict[str, Result]) -> WordTimes:
    """Compare the words of all recordings."""
    differences = []
    n_ours = n_theirs = n_cut = 0
    for name, result in ours.items():
        mine, other = spoken(result), spoken(theirs[name])
        segments = [piece for piece in result.pieces for _ in piece.words]
        n_ours += len(mine)
        n_theirs += len(other)
        for i, j in matched([word.word for word in mine], [word.word for word in other]):
            word, segment = mine[i], segments[i]
            start, end = abs(word.start - other[j].start), abs(word.end - other[j].end)
            differences.append((start, end))
            is_cut = [
                difference > SAME and abs(time - limit) < SAME
                for difference, time, limit in (
                    (start, word.start, segment.start),
                    (end, word.end, segment.end),
                )
            ]
            n_cut += sum(is_cut) == (start > SAME) + (end > SAME) > 0
    return WordTimes(n_ours, n_theirs, tuple(differences), n_cut)


@dataclass(frozen=True)
class Part:
    """A clip inside a recording: seconds, and what is said in it."""

    start: float
    end: float
    text: str


def read_parts(path: Path) -> list[Part]:
    """Read `…segments.json`."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return [Part(part["start"], part["end"], part["text"]) for part in found]


STEP = 1e-6
"""Seconds: times are sums of floats."""


def word_places(result: Result, parts: Sequence[Part]) -> WordPlaces:
    """Find each word's clip by the reference, and whether the word lies in it."""
    reference = [(bare(word), k) for k, part in enumerate(parts) for word in part.text.split()]
    words = [word for word in spoken(result) if bare(word.word)]
    pairs = matched([bare(word.word) for word in words], [word for word, _ in reference])
    inside = middle = 0
    outside = []
    for i, j in pairs:
        word, k = words[i], reference[j][1]
        part = parts[k]
        before, after = part.start - word.start, word.end - part.end
        middle += part.start <= (word.start + word.end) / 2 <= part.end
        if before <= STEP and after <= STEP:
            inside += 1
        else:
            place = place_of(j, [number for _, number in reference])
            outside.append(
                Outside(word.word, word.start, word.end, k, max(before, 0), max(after, 0), place)
            )
    return WordPlaces(len(words), len(pairs), inside, middle, tuple(outside))


def place_of(j: int, numbers: Sequence[int]) -> str:
    """Whether reference word j is its clip's "first", "last" or another: "inner"."""
    if bisect_right(numbers, numbers[j] - 1) == j:
        return "first"
    return "last" if bisect_right(numbers, numbers[j]) == j + 1 else "inner"


def bare(word: str) -> str:
    """Lower case letters and digits only."""
    return "".join(c for c in word.lower() if c.isalnum())
