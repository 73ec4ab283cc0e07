"""Segments beside openai/whisper's: the same text at the same times, and why where they are not.

Both engines get the same samples, so only arithmetic can make a difference: a near tie that falls
the other way, and all that follows from it, since each window is conditioned on those before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from engines import Piece, Result
from text_parity import FirstDifference, agreeing, by_window
from token_parity import MARGIN

Explain = Callable[[], FirstDifference | None]
"""Measures the first token that differs; see `text_parity.first_difference`. It measures greedy
decoding: a beam search, whose tokens need not be the likeliest, has none (None)."""

CLOSE = 1e-4
"""Mean log-probability by which two transcripts of a beam search are a near tie."""

CAUSES = ("margin", "sampled", "unexplained")
"""Near tie at temperature 0; random numbers of another generator; neither."""


@dataclass(frozen=True)
class SegmentDifference:
    """A recording whose segments are not openai/whisper's.

    Attributes:
        clip: its name in the corpus.
        equal: segments that are.
        ours: how many mwc has.
        theirs: how many openai/whisper has.
        cause: one of CAUSES; "margin": the first token that differs is a near tie, below MARGIN,
            or the two transcripts of a beam search are, below CLOSE;
            "sampled": the windows before the first difference are equal, and it is in one that
            was sampled above temperature 0.
        seek: frame of the window in which they first differ.
        first: the first token that differs, at temperature 0.
        texts: mwc's and openai/whisper's text of that window.
        avg_logprobs: of that window, mwc's and openai/whisper's; None without a segment.
    """

    clip: str
    equal: int
    ours: int
    theirs: int
    cause: str
    seek: int
    first: FirstDifference | None
    texts: tuple[str, str]
    avg_logprobs: tuple[float | None, float | None]


@dataclass(frozen=True)
class SegmentParity:
    """Of all recordings of a run: how many segments are openai/whisper's, and what differs."""

    clips: int
    ours: int
    theirs: int
    equal: int
    differences: tuple[SegmentDifference, ...]

    @property
    def share(self) -> float:
        """Equal segments over the larger of the two counts."""
        return self.equal / max(self.ours, self.theirs, 1)


def compare_segments(
    ours: dict[str, Result],
    theirs: dict[str, Result],
    explain: Callable[[str], Explain] | None,
) -> SegmentParity:
    """Compare all recordings of a run; `explain` gives each its way to measure, if there is one."""
    found: list[SegmentDifference] = []
    n_equal = 0
    for name, mine in ours.items():
        other = theirs[name]
        equal = equal_segments(mine.pieces, other.pieces)
        n_equal += equal
        if equal < max(len(mine.pieces), len(other.pieces)):
            found.append(
                difference(name, equal, mine.pieces, other.pieces, explain and explain(name))
            )
    return SegmentParity(
        clips=len(ours),
        ours=sum(len(result.pieces) for result in ours.values()),
        theirs=sum(len(theirs[name].pieces) for name in ours),
        equal=n_equal,
        differences=tuple(found),
    )


def equal_segments(ours: Sequence[Piece], theirs: Sequence[Piece]) -> int:
    """How many segments, in order, have the same text and times (to 10 ms, a frame)."""
    matcher = SequenceMatcher(None, list(map(_key, ours)), list(map(_key, theirs)), autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks())


def _key(piece: Piece) -> tuple[str, float, float]:
    return piece.text, round(piece.start, 2), round(piece.end, 2)


def difference(
    name: str, equal: int, ours: Sequence[Piece], theirs: Sequence[Piece], explain: Explain | None
) -> SegmentDifference:
    """Find where two lists of segments of the same samples first differ, and why."""
    seek = first_seek(ours, theirs)
    mine, other = ([piece for piece in pieces if piece.seek == seek] for pieces in (ours, theirs))
    logprobs = tuple(window[0].avg_logprob if window else None for window in (mine, other))
    first = None
    if any(piece.temperature > 0 for piece in (*mine, *other)):
        cause = "sampled"
    elif explain is None:
        is_tie = mine and other and abs(mine[0].avg_logprob - other[0].avg_logprob) < CLOSE
        cause = "margin" if is_tie else "unexplained"
    else:
        first = explain()
        is_tie = first is not None and abs(first.margin) < MARGIN
        cause = "margin" if is_tie else "unexplained"
    return SegmentDifference(
        clip=name,
        equal=equal,
        ours=len(ours),
        theirs=len(theirs),
        cause=cause,
        seek=seek,
        first=first,
        texts=("".join(piece.text for piece in mine), "".join(piece.text for piece in other)),
        avg_logprobs=logprobs,
    )


def first_seek(ours: Sequence[Piece], theirs: Sequence[Piece]) -> int:
    """Frame of the first window that differs in tokens; if none does, in times."""
    for seek, mine, other in by_window(ours, theirs):
        if agreeing(mine, other) < max(len(mine), len(other)):
            return seek
    pairs = zip(ours, theirs, strict=False)
    return next((mine.seek for mine, other in pairs if _key(mine) != _key(other)), 0)
