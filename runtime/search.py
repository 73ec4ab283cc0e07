"""Searches: how one window's tokens are found, as several rows that step together.

`Samples` is one greedy row, or several sampled ones; `Beams` is beam search. A search never calls
the model: `decode.py` asks it which rows to run and hands it the candidates, for all windows at
once. Rows of a search may use only their own slots and uniforms, so its result does not depend on
what else is decoded with it.

Algorithm: openai/whisper `whisper/decoding.py`, `GreedyDecoder`, `BeamSearchDecoder` and
`MaximumLikelihoodRanker`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mwc.runtime.decoder import ABSENT, Float32, Int32
from mwc.runtime.spec import WhisperSpec


@dataclass(frozen=True)
class Strategy:
    """How to search.

    Attributes:
        temperature: 0 for the likeliest tokens, above to sample.
        beam_size: beams at temperature 0; 1 is greedy.
        best_of: samples above temperature 0, of which the likeliest is taken.
        patience: beam search ends with round(beam_size * patience) finished transcripts.
        length_penalty: alpha of ((5 + length) / 6) ** alpha, by which the sum of log-probabilities
            is divided to rank transcripts (Wu et al., 2016); None divides by the length.
        seed: of the samples.
    """

    temperature: float = 0.0
    beam_size: int = 1
    best_of: int = 1
    patience: float = 1.0
    length_penalty: float | None = None
    seed: int = 0

    @property
    def width(self) -> int:
        """Rows that a window takes."""
        return self.best_of if self.temperature > 0 else self.beam_size


GREEDY = Strategy()
"""The likeliest token at every step."""


@dataclass(frozen=True)
class Hypothesis:
    """A finished transcript.

    Attributes:
        tokens: those before eot.
        sum_logprob: of their log-probabilities and of eot's.
        end_logprob: eot's, 0 where it was not sampled.
    """

    tokens: tuple[int, ...] = ()
    sum_logprob: float = 0.0
    end_logprob: float = 0.0

    def without_end(self) -> "Hypothesis":
        """Its tokens, as if it had not ended."""
        return Hypothesis(self.tokens, self.sum_logprob - self.end_logprob)


NOTHING = Hypothesis()
"""What a search begins with, unless it goes on from what another one found."""


@dataclass(frozen=True)
class RowCopy:
    """The cache of one row slot to be copied to another before the next step.

    `n_new` is of how many of the last tokens: the slots hold the same up to there; None: of all.
    """

    source: int
    target: int
    n_new: int | None = None


@dataclass
class Row:
    """A row of a search between steps: its slot, what it sampled, and what that is worth."""

    slot: int
    sampled: tuple[int, ...] = ()
    sum_logprob: float = 0.0


class Search(ABC):
    """One window's search, under way.

    Attributes:
        slots: the row slots it has.
        rows: the rows to run next; empty when it has ended.
    """

    n_candidates = 1
    """Candidates it wants per row."""

    def __init__(self, strategy: Strategy, spec: WhisperSpec, slots: Sequence[int]) -> None:
        self.strategy = strategy
        self.slots = tuple(slots)
        self.rows: list[Row] = []
        self._eot = spec.tokens.eot

    @abstractmethod
    def take(self, candidates: Int32, logprobs: Float32) -> list[RowCopy]:
        """Take the candidates of `rows`, [rows, k] each; return the copies to make."""

    @abstractmethod
    def end(self) -> None:
        """Stop where it is: the window's tokens or the context are used up."""

    @abstractmethod
    def hypotheses(self) -> list[Hypothesis]:
        """Everything found, once `rows` is empty."""

    def uniforms(self) -> Float32:
        """float32 [rows] in [0, 1), one for each row's next sample."""
        return np.zeros(len(self.rows), np.float32)

    def best(self) -> Hypothesis:
        """The transcript that ranks first."""
        return max(self.hypotheses(), key=self._rank)

    def _rank(self, hypothesis: Hypothesis) -> float:
        length = len(hypothesis.tokens)
        alpha = self.strategy.length_penalty
        if alpha is None:
            return hypothesis.sum_logprob / length if length else -np.inf
        return float(hypothesis.sum_logprob / ((5 + length) / 6) ** alpha)


class Samples(Search):
    """Greedy decoding, or `best_of` samples: rows that have nothing to do with each other."""

    def __init__(
        self,
        strategy: Strategy,
        spec: WhisperSpec,
        slots: Sequence[int],
        stream: Sequence[int],
        begun: Hypothesis = NOTHING,
    ) -> None:
        """`stream` names the window's random numbers: equal ones give equal samples."""
        super().__init__(strategy, spec, slots)
        self.rows = [Row(slot, begun.tokens, begun.sum_logprob) for slot in slots]
        self._finished: list[Hypothesis] = []
        self._generators = {
            row.slot: np.random.default_rng([strategy.seed, *stream, i])
            for i, row in enumerate(self.rows)
        }

    def uniforms(self) -> Float32:
        """float32 [rows] in [0, 1): the next number of each row's own stream."""
        if self.strategy.temperature == 0:
            return super().uniforms()
        drawn = [self._generators[row.slot].random(dtype=np.float32) for row in self.rows]
        return np.array(drawn, np.float32)

    def take(self, candidates: Int32, logprobs: Float32) -> list[RowCopy]:
        """Each row takes its first candidate."""
        going_on = []
        for row, token, logprob in zip(
            self.rows, candidates[:, 0].tolist(), logprobs[:, 0].tolist(), strict=True
        ):
            total = row.sum_logprob + logprob
            if token == self._eot:
                self._finished.append(Hypothesis(row.sampled, total, logprob))
            else:
                going_on.append(Row(row.slot, (*row.sampled, token), total))
        self.rows = going_on
        return []

    def take_ahead(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """Its one row takes a token after the other, until it ends."""
        (row,) = self.rows
        total = row.sum_logprob
        for n_taken, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            total += logprob
            if token == self._eot:
                sampled = (*row.sampled, *tokens[:n_taken])
                self._finished.append(Hypothesis(sampled, total, logprob))
                self.rows = []
                return
        self.rows = [Row(row.slot, (*row.sampled, *tokens), total)]

    def end(self) -> None:
        """Rows that are still going count as they are."""
        self._finished += [Hypothesis(row.sampled, row.sum_logprob) for row in self.rows]
        self.rows = []

    def hypotheses(self) -> list[Hypothesis]:
        """One per row."""
        return self._finished


class Beams(Search):
    """Beam search: the likeliest continuations of all rows together go on."""

    def __init__(
        self,
        strategy: Strategy,
        spec: WhisperSpec,
        slots: Sequence[int],
        begun: Hypothesis = NOTHING,
    ) -> None:
        super().__init__(strategy, spec, slots)
        self.n_candidates = strategy.beam_size + 1
        # All beams begin alike: one row stands for them.
        self.rows = [Row(self.slots[0], begun.tokens, begun.sum_logprob)]
        self._wanted = max(1, round(strategy.beam_size * strategy.patience))
        self._finished: list[Hypothesis] = []
        # What was sampled of what each slot's cache holds.
        self._held: dict[int, tuple[int, ...]] = {}

    def take(self, candidates: Int32, logprobs: Float32) -> list[RowCopy]:
        """Keep the best `beam_size` of all continuations; those that end are finished."""
        options = [
            (row.sum_logprob + logprob, row, token)
            for row, tokens, values in zip(
                self.rows, candidates.tolist(), logprobs.tolist(), strict=True
            )
            for token, logprob in zip(tokens, values, strict=True)
            if logprob > ABSENT
        ]
        options.sort(key=lambda option: option[0], reverse=True)
        chosen: list[tuple[float, Row, int]] = []
        ended: list[Hypothesis] = []
        for total, row, token in options:
            if token == self._eot:
                ended.append(Hypothesis(row.sampled, total, total - row.sum_logprob))
                continue
            chosen.append((total, row, token))
            if len(chosen) == self.strategy.beam_size:
                break
        self._finished += ended[: self._wanted - len(self._finished)]
        if not chosen and not self._finished:
            self.end()  # nothing at all is allowed: what there is has to do
            return []
        copies = self._place(chosen)
        if len(self._finished) >= self._wanted:
            self.end()
            return []
        return copies

    def end(self) -> None:
        """Unfinished beams make up what is missing, the likeliest first."""
        rows = sorted(self.rows, key=lambda row: row.sum_logprob, reverse=True)
        missing = max(0, self.strategy.beam_size - len(self._finished))
        self._finished += [Hypothesis(row.sampled, row.sum_logprob) for row in rows[:missing]]
        self.rows = []

    def hypotheses(self) -> list[Hypothesis]:
        """The finished beams."""
        return self._finished

    def _place(self, chosen: list[tuple[float, Row, int]]) -> list[RowCopy]:
        """Give every chosen continuation a slot: the first of a row keeps its slot.

        Further ones are copied into slots that nothing continues, so no copy overwrites a source;
        of what those hold already, which is most of it as a rule, nothing is copied.
        """
        self._held |= {row.slot: row.sampled for row in self.rows}
        kept = {row.slot for _, row, _ in chosen}
        free = [slot for slot in self.slots if slot not in kept]
        used: set[int] = set()
        copies, rows = [], []
        for total, row, token in chosen:
            slot = row.slot
            if slot in used:
                slot = free.pop(0)
                held = self._held.get(slot)
                n_new = None if held is None else len(row.sampled) - n_shared(row.sampled, held)
                copies.append(RowCopy(row.slot, slot, n_new))
                self._held[slot] = row.sampled
            used.add(slot)
            rows.append(Row(slot, (*row.sampled, token), total))
        self.rows = rows
        return copies


def n_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for i, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return i
    return min(len(first), len(second))


def start_search(
    strategy: Strategy,
    spec: WhisperSpec,
    slots: Sequence[int],
    stream: Sequence[int],
    begun: Hypothesis = NOTHING,
) -> Search:
    """The search a strategy asks for, in `strategy.width` row slots, from what stands already."""
    if strategy.temperature == 0 and strategy.beam_size > 1:
        return Beams(strategy, spec, slots, begun)
    return Samples(strategy, spec, slots, stream, begun)
