"""Alignment: the path through the attention, by hand and as openai/whisper goes it."""

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_decoder import FakeDecoder, FakeWindow, fake_spec, fake_tokenizer, noise
from openai_whisper import FakeWhisper, their_tokenizer

from mwc.runtime.decoder import Float32
from mwc.runtime.errors import OptionError
from mwc.runtime.timing import (
    Aligner,
    attention_matrix,
    dtw,
    median_filter,
    token_probabilities,
)
from mwc.runtime.tokenizer import Tokenizer

SPEC = fake_spec()
T = SPEC.tokens


def cells(cost: list[list[float]]) -> list[tuple[int, int]]:
    rows, columns = dtw(np.array(cost, np.float32))
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def test_the_path_takes_the_cheapest_way() -> None:
    cost = [[-5, -5, 1, 1], [1, 1, -5, 1], [1, 1, 1, -5]]
    assert cells(cost) == [(0, 0), (0, 1), (1, 2), (2, 3)]


def test_the_path_goes_through_every_row_of_a_high_matrix() -> None:
    assert cells([[0], [1], [2]]) == [(0, 0), (1, 0), (2, 0)]
    assert cells([[3, 1]]) == [(0, 0), (0, 1)]
    assert cells([[7]]) == [(0, 0)]


def test_equal_ways_lead_to_the_next_column() -> None:
    # From (1, 1), the diagonal and the way up cost the same: the way along the row is taken.
    assert cells([[0, 0], [9, 0]]) == [(0, 0), (1, 0), (1, 1)]


def slow_dtw(cost: Float32) -> list[tuple[int, int]]:
    """The same rule, a cell at a time."""
    sums = np.full((cost.shape[0] + 1, cost.shape[1] + 1), np.inf)
    sums[0, 0] = 0
    steps: dict[tuple[int, int], tuple[int, int]] = {}
    for i, j in product(range(cost.shape[0]), range(cost.shape[1])):
        both, up, left = sums[i, j], sums[i, j + 1], sums[i + 1, j]
        if both < up and both < left:
            steps[i, j], best = (1, 1), both
        elif up < both and up < left:
            steps[i, j], best = (1, 0), up
        else:
            steps[i, j], best = (0, 1), left
        sums[i + 1, j + 1] = cost[i, j] + best
    path = [(cost.shape[0] - 1, cost.shape[1] - 1)]
    while path[-1] != (0, 0):
        i, j = path[-1]
        step = steps[i, j] if i and j else (0, 1) if j else (1, 0)
        path.append((i - step[0], j - step[1]))
    return path[::-1]


SHAPES = [(1, 1), (1, 6), (6, 1), (2, 3), (3, 2), (12, 40), (40, 12), (60, 200)]


def some_costs(rows: int, columns: int) -> list[Float32]:
    """Random costs, and coarse ones that are often equal, or nearly."""
    rng = np.random.default_rng(rows * 1000 + columns)
    fine = [rng.normal(size=(rows, columns)).astype(np.float32) for _ in range(4)]
    coarse = [np.round(2 * cost) / 2 for cost in fine]
    near = [cost + 1e-6 * other for cost, other in zip(coarse, fine, strict=True)]
    return [*fine, *coarse, *near, np.zeros_like(fine[0])]


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_anti_diagonals_give_the_path_of_single_cells(rows: int, columns: int) -> None:
    for cost in some_costs(rows, columns):
        assert cells(cost.tolist()) == slow_dtw(cost)


@pytest.mark.parametrize(("rows", "columns"), [*SHAPES, (220, 1500)])
def test_paths_are_openai_whispers(rows: int, columns: int) -> None:
    timing = pytest.importorskip("whisper.timing")
    torch = pytest.importorskip("torch")
    for cost in some_costs(rows, columns):
        assert np.array_equal(np.array(dtw(cost)), timing.dtw(torch.from_numpy(cost)))


def test_the_filter_takes_medians_of_any_seven_values() -> None:
    # What exchanges of zeros and ones always put right, they put right for all values.
    for bits in product((0.0, 1.0), repeat=7):
        values = np.array([*bits], np.float32)
        assert median_filter(values)[3] == np.median(values)


def test_the_filter_reflects_at_the_ends() -> None:
    values = np.array([9, 1, 2, 3, 4], np.float32)
    # 3 2 1 [9] 1 2 3; 2 1 9 [1] 2 3 4; …; 2 3 … 4 3 2
    assert median_filter(values).tolist() == [2.0, 2.0, 3.0, 3.0, 2.0]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_filter_leaves_what_it_cannot_reflect(length: int) -> None:
    values = np.arange(length, 0, -1, dtype=np.float32)
    assert np.array_equal(median_filter(values), values)


@pytest.mark.parametrize("length", [1, 3, 4, 5, 6, 7, 50, 1500])
def test_filtered_values_are_openai_whispers(length: int) -> None:
    timing = pytest.importorskip("whisper.timing")
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(length).normal(size=(3, 5, length)).astype(np.float32)
    theirs = timing.median_filter(torch.from_numpy(values), 7).numpy()
    assert np.array_equal(median_filter(values), theirs)


def test_attention_is_compared_between_tokens() -> None:
    # Two tokens over two positions: each has its own, seen from the mean of both.
    scores = np.log(np.array([[[0.8, 0.2, 0.1], [0.2, 0.8, 0.1]]], np.float32))
    assert attention_matrix(scores, 2) == pytest.approx(np.array([[1, -1], [-1, 1]]), abs=1e-5)


def test_attention_beyond_the_audio_does_not_count() -> None:
    scores = np.zeros((2, 3, 1500), np.float32)
    scores[:, 1, 10:20] = 3.0
    expected = attention_matrix(scores[:, :, :40], 40)
    assert expected[1, 12] > expected[1, 30]
    scores[:, :, 40:] = 50.0
    assert np.array_equal(attention_matrix(scores, 40), expected)


def test_a_position_all_tokens_attend_to_alike_says_nothing() -> None:
    assert not attention_matrix(np.ones((2, 3, 1500), np.float32), 10).any()


def test_token_probabilities_are_softmax() -> None:
    logits = np.log(np.array([[1, 2, 1], [5, 3, 2]], np.float32))
    assert token_probabilities(logits, [1, 0]) == pytest.approx([0.5, 0.5])


def aligner(tokenizer: Tokenizer, **changes: Any) -> Aligner:
    decoder = FakeDecoder(SPEC, noise(SPEC))
    decoder.windows = {0: FakeWindow(0, 3000), 1: FakeWindow(7, 450)}
    return Aligner(**{"decoder": decoder, "tokenizer": tokenizer, "language": "de", **changes})


def test_the_text_is_fed_without_timestamps(tokenizer: Tokenizer) -> None:
    ours = aligner(tokenizer, task="translate")
    timings = ours.align(list(b" Hi, you"), window=1, n_frames=450, row=2)
    language = dict(T.languages)["de"]
    prompt = (T.sot, language, T.translate, T.no_timestamps, *b" Hi, you", T.eot)
    assert ours.decoder.aligned == [prompt]  # type: ignore[attr-defined]
    assert [timing.word for timing in timings] == [" Hi", ",", " you"]
    assert [timing.tokens for timing in timings] == [tuple(b" Hi"), tuple(b","), tuple(b" you")]
    assert all(a.end == b.start for a, b in pairwise(timings))
    assert all(0 <= timing.start <= timing.end <= 4.5 for timing in timings)
    assert all(0 < timing.probability < 1 for timing in timings)


class Steady(FakeDecoder):
    """Attends from each token to where the next one is said: every 0.4 s from 1 s on."""

    def align(self, tokens: Any, window: int, row: int = 0) -> tuple[Float32, Float32]:
        scores = np.zeros((2, len(tokens), 1500), np.float32)
        for i in range(len(tokens)):
            centre = 60 + 20 * max(i - 3, 0)
            scores[:, i] = -np.abs(np.arange(1500) - centre) / 5
        logits = np.zeros((len(tokens), SPEC.model.n_vocab), np.float32)
        logits[:, T.eot :] = 100.0  # not text: not counted
        return scores, logits


def test_words_begin_where_their_tokens_are_attended_to(tokenizer: Tokenizer) -> None:
    steady = Steady(SPEC, noise(SPEC))
    a, b, c = Aligner(steady, tokenizer, "en").align(list(b" ab c de"), window=0, n_frames=3000)
    assert (a.word, b.word, c.word) == (" ab", " c", " de")
    assert a.start == 0.0
    assert a.end == b.start == pytest.approx(2.2, abs=0.05)
    assert b.end == c.start == pytest.approx(3.0, abs=0.05)
    assert c.end == pytest.approx(4.2, abs=0.05)
    assert a.probability == pytest.approx(1 / 256)


def test_no_text_needs_no_model(tokenizer: Tokenizer) -> None:
    ours = aligner(tokenizer)
    assert ours.align([], window=0, n_frames=3000) == []
    assert ours.decoder.aligned == []  # type: ignore[attr-defined]


def test_too_long_a_text_is_refused(tokenizer: Tokenizer) -> None:
    ours = aligner(tokenizer)
    assert len(ours.align(list(b" a" * 221 + b"b"), 0, 3000)) == 221
    with pytest.raises(OptionError, match="has 444 tokens; the model can align at most 443"):
        ours.align(list(b" a" * 222), 0, 3000)


@pytest.mark.parametrize("n_frames", [1, 2, 3, 8])
def test_a_moment_of_audio_has_words_of_a_moment(tokenizer: Tokenizer, n_frames: int) -> None:
    timings = aligner(tokenizer).align(list(b" one two"), window=0, n_frames=n_frames)
    assert [timing.word for timing in timings] == [" one", " two"]
    assert all(0 <= t.start <= t.end <= n_frames / 100 for t in timings)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_frames", [10, 333, 3000])
@pytest.mark.parametrize("language", ["en", "ja"])
def test_alignments_are_openai_whispers(
    tmp_path: Path, seed: int, n_frames: int, language: str
) -> None:
    timing = pytest.importorskip("whisper.timing")
    torch = pytest.importorskip("torch")
    spec = fake_spec(("en", "ja"))
    tokenizer = fake_tokenizer(tmp_path, spec)
    rng = np.random.default_rng(seed)
    alphabet = [*" abcdefgh  ,.!-'", "東", "京", "ü"]
    text = "".join(rng.choice(alphabet, rng.integers(1, 120)))
    tokens = tokenizer.encode(text)

    mel = torch.zeros(80, 3000)
    mel[0, :n_frames] = torch.arange(1, n_frames + 1)
    whisper = FakeWhisper(spec, noise(spec, seed))
    tokens_of = their_tokenizer(spec, tokenizer, language, "transcribe")
    theirs = timing.find_alignment(whisper, tokens_of, tokens, mel, n_frames)

    decoder = FakeDecoder(spec, noise(spec, seed))
    decoder.windows[0] = FakeWindow(0, n_frames)
    ours = Aligner(decoder, tokenizer, language).align(tokens, 0, n_frames)
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert (our.word, list(our.tokens)) == (their.word, their.tokens)
        assert (our.start, our.end) == (their.start, their.end)
        assert our.probability == pytest.approx(their.probability, abs=1e-6)
