"""Searches by hand: what goes on, what ends, which slots are copied, and which transcript wins."""

import numpy as np
import pytest
from fake_decoder import fake_spec

from mwc.runtime.decoder import ABSENT
from mwc.runtime.search import (
    GREEDY,
    Beams,
    Hypothesis,
    RowCopy,
    Samples,
    Search,
    Strategy,
    start_search,
)

SPEC = fake_spec()
EOT = SPEC.tokens.eot
A, B, C, D = 65, 66, 67, 68


def take(search: Search, *rows: dict[int, float]) -> list[RowCopy]:
    """Give each row its candidates, best first, as a decoder would: padded with eot at ABSENT."""
    k = search.n_candidates
    assert len(rows) == len(search.rows)
    padded = [
        [*sorted(row.items(), key=lambda item: -item[1]), *[(EOT, ABSENT)] * k] for row in rows
    ]
    candidates = np.array([[token for token, _ in row[:k]] for row in padded], np.int32)
    logprobs = np.array([[value for _, value in row[:k]] for row in padded], np.float32)
    return search.take(candidates, logprobs)


def beams(size: int, patience: float = 1.0, penalty: float | None = None) -> Beams:
    strategy = Strategy(beam_size=size, patience=patience, length_penalty=penalty)
    return Beams(strategy, SPEC, range(10, 10 + size))


def going_on(search: Search) -> dict[tuple[int, ...], tuple[int, float]]:
    return {row.sampled: (row.slot, round(row.sum_logprob, 4)) for row in search.rows}


def test_strategies_and_their_widths() -> None:
    assert (GREEDY.width, Strategy(beam_size=5, best_of=3).width) == (1, 5)
    assert Strategy(temperature=0.2, beam_size=5, best_of=3).width == 3
    assert isinstance(start_search(GREEDY, SPEC, [0], ()), Samples)
    assert isinstance(start_search(Strategy(beam_size=2), SPEC, [0, 1], ()), Beams)
    sampled = start_search(Strategy(temperature=0.2, beam_size=2, best_of=3), SPEC, range(3), ())
    assert isinstance(sampled, Samples)
    assert [row.slot for row in sampled.rows] == [0, 1, 2]


def test_greedy_takes_the_first_candidate_until_eot() -> None:
    search = start_search(GREEDY, SPEC, [4], ())
    assert take(search, {A: -0.5}) == []
    assert take(search, {B: -0.25}) == []
    assert going_on(search) == {(A, B): (4, -0.75)}
    take(search, {EOT: -1.0})
    assert search.rows == []
    assert search.best() == Hypothesis((A, B), -1.75, -1.0)
    assert search.best().without_end() == Hypothesis((A, B), -0.75)


def test_rows_that_are_cut_off_count_as_they_are() -> None:
    search = Samples(Strategy(temperature=1.0, best_of=2), SPEC, [0, 1], ())
    take(search, {A: -1.0}, {EOT: -0.1})
    take(search, {B: -1.0})
    search.end()
    assert search.rows == []
    ended = pytest.approx(-0.1)
    assert search.hypotheses() == [Hypothesis((), ended, ended), Hypothesis((A, B), -2.0)]
    assert search.best().tokens == (A, B)  # an empty transcript ranks last


def test_every_row_draws_from_a_stream_of_its_own() -> None:
    strategy = Strategy(temperature=1.0, best_of=3, seed=7)

    def numbers(slots: range, *, first_ends: bool) -> list[list[float]]:
        search = Samples(strategy, SPEC, slots, (1500, 100))
        drawn = [search.uniforms().tolist()]
        take(search, {EOT if first_ends else A: -1.0}, {A: -1.0}, {A: -1.0})
        return [*drawn, search.uniforms().tolist()]

    first, second = numbers(range(3), first_ends=False)
    assert len({*first, *second}) == 6
    assert all(0 <= number < 1 for number in [*first, *second])
    assert numbers(range(5, 8), first_ends=True) == [first, second[1:]]
    assert Samples(GREEDY, SPEC, [0], ()).uniforms().tolist() == [0.0]


def test_one_row_splits_into_beams() -> None:
    search = beams(3)
    assert search.n_candidates == 4
    assert [row.slot for row in search.rows] == [10]
    copies = take(search, {A: -0.1, B: -0.2, C: -0.3, D: -0.4})
    assert copies == [RowCopy(10, 11), RowCopy(10, 12)]
    assert going_on(search) == {(A,): (10, -0.1), (B,): (11, -0.2), (C,): (12, -0.3)}


def test_the_best_continuations_of_all_rows_go_on() -> None:
    search = beams(2)
    take(search, {A: -0.1, B: -0.2, C: -9.0})
    copies = take(search, {C: -5.0, D: -6.0, A: -7.0}, {C: -0.1, D: -0.2, A: -9.0})
    assert going_on(search) == {(B, C): (11, -0.3), (B, D): (10, -0.4)}
    assert copies == [RowCopy(11, 10, 1)]  # the slot of the beam that was given up


def test_a_beam_keeps_its_slot() -> None:
    search = beams(2)
    take(search, {A: -0.1, B: -0.2, C: -9.0})
    assert take(search, {C: -1.0, D: -5.0, A: -6.0}, {C: -0.1, D: -5.0, A: -6.0}) == []
    assert going_on(search) == {(B, C): (11, -0.3), (A, C): (10, -1.1)}


@pytest.mark.parametrize("seed", range(20))
def test_no_copy_overwrites_a_source_or_another_copy(seed: int) -> None:
    generator = np.random.default_rng(seed)
    search = beams(5, patience=100)
    holds: dict[int, tuple[int, ...]] = {slot: () for slot in search.slots}
    used = {search.slots[0]}
    for _ in range(20):
        before = {row.slot: row.sampled for row in search.rows}
        holds.update(before)
        rows = [
            dict(zip(generator.permutation(50)[:6].tolist(), values, strict=True))
            for values in np.sort(-generator.exponential(2, (len(search.rows), 6))).tolist()
        ]
        copies = take(search, *rows)
        sources, targets = {c.source for c in copies}, [c.target for c in copies]
        assert len(set(targets)) == len(targets)
        assert not sources & set(targets)
        assert sources <= set(before)
        assert set(targets) <= set(search.slots)
        for copy in copies:
            tokens, held = holds[copy.source], holds[copy.target]
            assert (copy.n_new is None) == (copy.target not in used)
            if copy.n_new is not None:
                n_old = len(tokens) - copy.n_new
                assert tokens[:n_old] == held[:n_old]
                assert tokens[: n_old + 1] != held[: n_old + 1]
            holds[copy.target] = tokens
        used |= {*before, *targets}
        assert len({row.slot for row in search.rows}) == len(search.rows) == 5
        for row in search.rows:
            assert holds[row.slot] == row.sampled[:-1]


def test_a_search_ends_with_as_many_transcripts_as_beams() -> None:
    search = beams(2)
    take(search, {A: -0.1, B: -0.2, EOT: -0.3})
    assert search.hypotheses() == []  # eot came after the best two
    take(search, {EOT: -0.1, C: -1.0, D: -2.0}, {C: -0.3, D: -2.0, EOT: -3.0})
    sum_logprob, end = pytest.approx(-0.2), pytest.approx(-0.1)
    assert search.hypotheses() == [Hypothesis((A,), sum_logprob, end)]
    assert set(going_on(search)) == {(B, C), (A, C)}
    copies = take(search, {EOT: -0.1, A: -1.0, B: -2.0}, {A: -1.0, B: -2.0, EOT: -3.0})
    assert (copies, search.rows) == ([], [])
    assert [h.tokens for h in search.hypotheses()] == [(A,), (B, C)]
    assert search.best().tokens == (A,)


def test_more_endings_than_wanted_are_left_out() -> None:
    search = beams(2, patience=0.5)
    take(search, {A: -0.1, B: -0.2, C: -0.3})
    take(search, {EOT: -0.2, C: -5.0, D: -6.0}, {EOT: -0.05, C: -5.0, D: -6.0})
    assert search.rows == []
    # One was wanted; as in openai/whisper the likeliest beam fills the second place.
    assert [h.tokens for h in search.hypotheses()] == [(B,), (A, C)]


def test_patience_waits_for_more() -> None:
    search = beams(2, patience=1.5)
    take(search, {A: -0.1, B: -0.2, C: -9.0})
    take(search, {EOT: -0.1, C: -1.0, D: -9.0}, {EOT: -0.1, C: -1.0, D: -9.0})
    assert len(search.hypotheses()) == 2
    assert len(search.rows) == 2
    take(search, {EOT: -0.1, C: -1.0, D: -9.0}, {C: -1.0, D: -1.5, A: -9.0})
    assert search.rows == []
    assert len(search.hypotheses()) == 3


def test_unfinished_beams_make_up_what_is_missing() -> None:
    search = beams(3)
    take(search, {A: -0.1, B: -0.2, C: -0.3, D: -9.0})
    take(
        search,
        {EOT: -0.1, A: -3.0, B: -3.5, C: -9.0},
        {A: -1.0, B: -8.0, C: -8.5, D: -9.0},
        {A: -0.5, B: -8.0, C: -8.5, D: -9.0},
    )
    search.end()
    assert search.rows == []
    found = [(h.tokens, round(h.sum_logprob, 4)) for h in search.hypotheses()]
    assert found == [((A,), -0.2), ((C, A), -0.8), ((B, A), -1.2)]


def test_fewer_allowed_tokens_than_beams() -> None:
    search = beams(3)
    assert take(search, {A: -0.1}) == []
    assert going_on(search) == {(A,): (10, -0.1)}
    take(search, {EOT: -0.1})
    assert search.rows == []
    assert [h.tokens for h in search.hypotheses()] == [(A,)]


def test_nothing_allowed_keeps_what_there_is() -> None:
    search = beams(2)
    take(search, {A: -0.1, B: -0.2})
    assert take(search, {}, {}) == []
    assert search.rows == []
    assert search.best().tokens == (A,)


@pytest.mark.parametrize(
    ("penalty", "best"), [(None, (A, B, C)), (0.0, (A,)), (0.5, (A,)), (1.0, (A,))]
)
def test_ranking_by_length(penalty: float | None, best: tuple[int, ...]) -> None:
    """-1.0 for one token, -2.7 for three: only their mean is better for the longer one."""
    search = Samples(Strategy(temperature=1.0, best_of=2, length_penalty=penalty), SPEC, [0, 1], ())
    take(search, {A: -0.9}, {A: -0.8})
    take(search, {EOT: -0.1}, {B: -0.9})
    take(search, {C: -0.9})
    take(search, {EOT: -0.1})
    assert search.best().tokens == best


def test_length_penalty_is_that_of_wu_et_al() -> None:
    def best(alpha: float) -> tuple[int, ...]:
        search = Samples(
            Strategy(temperature=1.0, best_of=2, length_penalty=alpha), SPEC, [0, 1], ()
        )
        take(search, {A: -1.0}, {A: -0.5})
        take(search, {EOT: -1.0}, {B: -0.5})
        for _ in range(5):
            take(search, {C: -0.2})
        take(search, {EOT: -0.3})
        return search.best().tokens

    # -2.0 for 1 token and -2.3 for 7: ((5 + 7) / 6) ** alpha passes 2.3 / 2 at alpha 0.2016.
    assert best(0.2) == (A,)
    assert len(best(0.203)) == 7


@pytest.mark.parametrize("tokens", [[A], [A, B, C], [A, EOT, B], [EOT], [EOT, EOT]])
def test_tokens_taken_together_are_as_taken_one_by_one(tokens: list[int]) -> None:
    logprobs = [-0.1 * (1 + i) for i in range(len(tokens))]
    together = Samples(GREEDY, SPEC, [4], ())
    one_by_one = Samples(GREEDY, SPEC, [4], ())
    for search in (together, one_by_one):
        take(search, {D: -0.3})
    together.take_ahead(tokens, [float(np.float32(value)) for value in logprobs])
    for token, logprob in zip(tokens, logprobs, strict=True):
        if one_by_one.rows:
            take(one_by_one, {token: logprob})
    assert together.rows == one_by_one.rows
    assert together.hypotheses() == one_by_one.hypotheses()
