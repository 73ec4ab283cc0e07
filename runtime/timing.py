"""When each token of a window was said, from the decoder's attention to the audio.

A teacher-forced pass over the finished text gives the scores of the alignment heads; the path
through them along which the tokens follow each other most plausibly gives the times.

Algorithm: openai/whisper `whisper/timing.py`, `find_alignment`, with the same float64 sums and the
same choice among equal ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mwc.runtime.decoder import Decoder, Float32
from mwc.runtime.errors import OptionError
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.words import WordTiming, split_words

Indices = npt.NDArray[np.int64]

FILTER_WIDTH = 7
"""Encoder positions of 20 ms that the median filter takes together (`find_alignment`)."""

_MEDIAN_OF_7 = (
    *((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6)),
    *((2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4)),
)
"""Exchanges after which the median of 7 stands in the middle: `opt_med7` of N. Devillard, "Fast
median search: an ANSI C implementation" (1998)."""

_DIAGONAL, _UP, _LEFT = 0, 1, 2
"""Where the best path to a cell comes from: the token and the position before it, the token
before it, the position before it."""


@dataclass(frozen=True)
class Aligner:
    """Tells when the words of a window were said.

    Attributes:
        decoder: the model; the window is encoded in one of its slots.
        tokenizer: its tokenizer.
        language: of the audio; "en" for an English-only model.
        task: "transcribe" or "translate".
    """

    decoder: Decoder
    tokenizer: Tokenizer
    language: str
    task: str = "transcribe"

    def align(
        self, tokens: Sequence[int], window: int, n_frames: int, row: int = 0
    ) -> list[WordTiming]:
        """Align text tokens with the audio in a window slot.

        Args:
            tokens: text tokens, no timestamps among them.
            window: the window slot.
            n_frames: its frames that hold audio, 1 to 3000.
            row: a row slot that is free.

        Raises:
            OptionError: there are more tokens than the model's context holds.
        """
        if not tokens:
            return []
        spec = self.decoder.spec
        before = self.tokenizer.sot_sequence(self.language, self.task, timestamps=True)
        prompt = (*before, spec.tokens.no_timestamps, *tokens, spec.tokens.eot)
        if len(prompt) > spec.model.n_text_ctx:
            raise OptionError(
                f"the text has {len(tokens)} tokens; the model can align at most "
                f"{spec.model.n_text_ctx + len(tokens) - len(prompt)} at once, cut it into parts."
            )
        scores, logits = self.decoder.align(prompt, window, row)
        # Each row of the decoder attends to where the token after it is said.
        rows = slice(len(before), len(before) + len(tokens) + 1)
        probabilities = token_probabilities(logits[rows][:-1, : spec.tokens.eot], tokens)
        matrix = attention_matrix(scores, max(n_frames // spec.audio.frames_per_token, 1))[rows]
        text_indices, time_indices = dtw(-matrix)
        is_first = np.diff(text_indices, prepend=-1) > 0
        starts = (time_indices[is_first] / spec.audio.tokens_per_second).tolist()
        return _time_words(
            split_words(self.tokenizer, [*tokens, spec.tokens.eot], self.language)[:-1],
            starts,
            probabilities.tolist(),
        )


def _time_words(
    words: Sequence[tuple[str, tuple[int, ...]]],
    starts: Sequence[float],
    probabilities: Sequence[float],
) -> list[WordTiming]:
    """Give each word the time from its first token to the token after its last."""
    timings = []
    first = 0
    for word, ids in words:
        after = first + len(ids)
        mean = sum(probabilities[first:after]) / len(ids)
        timings.append(WordTiming(word, ids, starts[first], starts[after], mean))
        first = after
    return timings


def token_probabilities(logits: Float32, tokens: Sequence[int]) -> Float32:
    """Softmax of float32 [n, n_text_vocab] at one token a row: float32 [n]."""
    result = np.empty(len(tokens), np.float32)
    for i, (row, token) in enumerate(zip(logits, tokens, strict=True)):
        odds = np.exp(row - row.max())
        result[i] = odds[token] / odds.sum()
    return result


def attention_matrix(scores: Float32, n_positions: int) -> Float32:
    """How much each token attends to each position beyond what others do, mean over the heads.

    Args:
        scores: float32 [heads, tokens, 1500], before softmax.
        n_positions: positions that hold audio; the others are cut off.

    Returns:
        float32 [tokens, n_positions]. A position to which a head's tokens all attend alike counts
        0 in that head.
    """
    total = np.zeros((scores.shape[1], n_positions), np.float32)
    for head in scores[:, :, :n_positions]:
        weights = np.exp(head - head.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        deviation = weights.std(axis=0)
        weights -= weights.mean(axis=0)
        weights /= np.where(deviation > 0, deviation, 1)
        total += median_filter(weights)
    return total / np.float32(len(scores))


def median_filter(values: Float32) -> Float32:
    """Median over FILTER_WIDTH neighbours along the last axis, reflected at the ends.

    An axis of at most half the width cannot be reflected and is left as it is.
    """
    half = FILTER_WIDTH // 2
    length = values.shape[-1]
    if length <= half:
        return values
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(half, half)], mode="reflect")
    neighbours = [padded[..., i : i + length] for i in range(FILTER_WIDTH)]
    for i, j in _MEDIAN_OF_7:
        low = np.minimum(neighbours[i], neighbours[j])
        neighbours[j] = np.maximum(neighbours[i], neighbours[j])
        neighbours[i] = low
    return neighbours[half]


def dtw(cost: Float32) -> tuple[Indices, Indices]:
    """Find the cheapest path through a matrix from its first cell to its last.

    Each step goes to the next row, the next column, or both. A step to both is taken where it is
    cheaper than the two others, one to the next row likewise, else one to the next column, even
    where the two others are equal and cheaper: openai/whisper's rule (`timing.py`, `dtw_cpu`).
    Sums are float64, as there once numba has compiled it, whatever the source says.

    Args:
        cost: float32 [rows, columns], both at least 1.

    Returns:
        The rows and the columns of the path's cells, int64 [cells].
    """
    n_rows, n_columns = cost.shape
    came_from = _fill(cost)
    i, j = n_rows - 1, n_columns - 1
    path = [(i, j)]
    while i > 0 or j > 0:
        step = _UP if j == 0 else _LEFT if i == 0 else came_from[i + j, i]
        i -= step != _LEFT
        j -= step != _UP
        path.append((i, j))
    rows, columns = np.array(path[::-1], np.int64).T
    return rows, columns


def _fill(cost: Float32) -> npt.NDArray[np.uint8]:
    """Tell for each cell where its cheapest path comes from.

    Goes from one anti-diagonal to the next, all cells of which depend on the two before it only.

    Returns:
        uint8 [rows + columns - 1, rows]: cell (i, j) at [i + j, i].
    """
    n_rows, n_columns = cost.shape
    n_diagonals = n_rows + n_columns - 1
    # Padding each row by n_rows and cutting the whole into rows one shorter shifts row i by i.
    padded = np.pad(cost.astype(np.float64), ((0, 0), (0, n_rows)), constant_values=np.inf)
    skewed = padded.ravel()[: n_rows * n_diagonals].reshape(n_rows, n_diagonals).T.copy()
    came_from = np.full(skewed.shape, _LEFT, np.uint8)
    # Cheapest sums on the last two diagonals by row, with a row before the first.
    before = np.full(n_rows + 1, np.inf)
    before[0] = 0.0
    last = np.full(n_rows + 1, np.inf)
    for diagonal, sources in zip(skewed, came_from, strict=True):
        both, up, left = before[:-1], last[:-1], last[1:]
        takes_both = (both < up) & (both < left)
        takes_up = (up < both) & (up < left)
        sources[takes_both] = _DIAGONAL
        sources[takes_up] = _UP
        before, last = last, np.full(n_rows + 1, np.inf)
        last[1:] = diagonal + np.where(takes_both, both, np.where(takes_up, up, left))
    return came_from
