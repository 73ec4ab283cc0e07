"""Decoding of 30 s windows: prompts in, tokens and their scores out.

Written over any number of windows at once. Their searches share every call of the decoder, start
and finish independently, each by its own strategy; what a window gives does not depend on its
neighbours.

Algorithm: openai/whisper `whisper/decoding.py`, `DecodingTask`, one window's rows apart.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mwc.runtime.decoder import MOST_AHEAD, Choice, Decoder, Float32, Int32, PrefillRow, StepBatch
from mwc.runtime.prompt import Prompt
from mwc.runtime.rules import RuleState, rule_columns
from mwc.runtime.sampling import Sampling
from mwc.runtime.search import NOTHING, Hypothesis, Row, Samples, Search, start_search
from mwc.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Task:
    """One encoded window to decode.

    Attributes:
        prompt: what its rows start from.
        window: its slot.
        stream: names its random numbers, for example by where it starts in the file.
        begun: the tokens that stand already, which do not end there.
    """

    prompt: Prompt
    window: int
    stream: tuple[int, ...] = ()
    begun: Hypothesis = NOTHING


@dataclass(frozen=True)
class WindowResult:
    """The transcript of one window (openai/whisper `DecodingResult`).

    Attributes:
        tokens: the sampled tokens before eot, timestamps included.
        text: their text, stripped.
        avg_logprob: sum of log-probabilities over the number of tokens plus one for eot.
        no_speech_prob: probability of `<|nospeech|>` at sot, before any filter.
        compression_ratio: bytes of `text` over its zlib-compressed bytes.
        temperature: at which it was sampled.
        new_logprob: as `avg_logprob`, of the tokens that did not stand already.
    """

    tokens: tuple[int, ...]
    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float
    new_logprob: float


def _by_mask(
    searches: "Sequence[RunningSearch]", mask_of: "Callable[[RunningSearch], Float32]"
) -> "list[tuple[Float32, list[RunningSearch]]]":
    """The masks of searches, each with those that share it."""
    found: dict[int, tuple[Float32, list[RunningSearch]]] = {}
    for search in searches:
        mask = mask_of(search)
        found.setdefault(id(mask), (mask, []))[1].append(search)
    return list(found.values())


def compression_ratio(text: str) -> float:
    """Bytes of the text over its zlib-compressed bytes (openai/whisper `utils.py`)."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


class DecodingBatch:
    """Searches under way that share the decoder's calls; they join and leave between steps.

    A call of the decoder has one mask of suppressed tokens: searches share it that share the mask.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._started: list[RunningSearch] = []
        self._going_on: list[RunningSearch] = []

    @property
    def is_busy(self) -> bool:
        """Whether any search is under way."""
        return bool(self._started or self._going_on)

    def start(self, task: Task, sampling: Sampling, slots: Sequence[int]) -> "RunningSearch":
        """Let a search join, in row slots that no other uses; it runs from the next `advance`."""
        search = RunningSearch(self._decoder, task, sampling, slots)
        self._started.append(search)
        return search

    def advance(self) -> "list[RunningSearch]":
        """Run the prompts of those that joined, one step of the others; return those that ended."""
        for suppress, started in _by_mask(self._started, lambda search: search.first_mask):
            self._prefill(started, suppress)
        for suppress, going_on in _by_mask(self._going_on, lambda search: search.mask):
            self._step(going_on, suppress)
        searches = [*self._going_on, *self._started]
        self._started = []
        self._going_on = [search for search in searches if search.rows]
        return [search for search in searches if not search.rows]

    def drop(self, search: "RunningSearch") -> None:
        """Let a search that is under way leave."""
        self._started = [each for each in self._started if each is not search]
        self._going_on = [each for each in self._going_on if each is not search]

    def _prefill(self, searches: "Sequence[RunningSearch]", suppress: Float32) -> None:
        """Run the prompts of new rows and take their first tokens."""
        rows = [row for search in searches for row in search.prefill_rows()]
        n_candidates = max(search.n_candidates for search in searches)
        result = self._decoder.prefill(rows, suppress, n_candidates)
        first = np.cumsum([0, *(len(search.rows) for search in searches[:-1])])
        for search, no_speech_prob in zip(searches, result.no_speech_probs[first], strict=True):
            search.no_speech_prob = float(no_speech_prob)
        self._take(searches, result.choice)

    def _step(self, searches: "Sequence[RunningSearch]", suppress: Float32) -> None:
        """Feed each row its last token and take the next, or several where nobody has to choose."""
        rows = [(search, row) for search in searches for row in search.rows]
        sampled = any(search.temperature > 0 for search in searches)
        batch = StepBatch(
            tokens=np.array([row.sampled[-1] for _, row in rows], dtype=np.int32),
            rows=np.array([row.slot for _, row in rows], dtype=np.int32),
            positions=np.array([search.position(row) for search, row in rows], dtype=np.int32),
            windows=np.array([search.task.window for search, _ in rows], dtype=np.int32),
            rule_states=np.array(
                [search.rule_columns(row.sampled) for search, row in rows], dtype=np.int32
            ),
            temperatures=np.array([search.temperature for search, _ in rows], dtype=np.float32)
            if sampled
            else None,
            uniforms=np.concatenate([search.uniforms() for search in searches])
            if sampled
            else None,
            wanted=np.array([search.n_exact for search, _ in rows], dtype=np.int32),
        )
        if all(search.can_go_ahead for search in searches):
            ahead = self._decoder.steps(batch, suppress)
            for search, (chosen, logprobs) in zip(searches, ahead.by_row(), strict=True):
                search.take_ahead(chosen, logprobs)
            return
        n_candidates = max(search.n_candidates for search in searches)
        self._take(searches, self._decoder.step(batch, suppress, n_candidates))

    def _take(self, searches: "Sequence[RunningSearch]", choice: Choice) -> None:
        """Hand each search its rows of a choice, and copy the rows that split, all at once."""
        first = 0
        copies: list[tuple[int, int, int, int]] = []
        for search in searches:
            rows = slice(first, first + len(search.rows))
            first = rows.stop
            copies += search.take(choice.candidates[rows], choice.candidate_logprobs[rows])
        if copies:
            self._decoder.copy_rows(*np.array(copies, dtype=np.int32).T)


class RunningSearch:
    """One task under way: its search, its row slots, and how far it may still go.

    Attributes:
        task: what is decoded.
        sampling: how.
        slots: the row slots it has.
        temperature: at which it samples.
        n_candidates: candidates it wants per row.
        n_exact: candidates whose log-probabilities it needs exactly; 0: of any token, as it
            samples.
        no_speech_prob: once its prompt has run.
    """

    def __init__(
        self, decoder: Decoder, task: Task, sampling: Sampling, slots: Sequence[int]
    ) -> None:
        """Use `DecodingBatch.start`."""
        strategy = sampling.strategy
        spec = decoder.spec
        self.task = task
        self.sampling = sampling
        self.slots = tuple(slots)
        self.temperature = strategy.temperature
        self.no_speech_prob = float("nan")
        stream = (*task.stream, round(100 * strategy.temperature))
        self._tokens = spec.tokens
        begun = task.begun
        if begun.tokens:
            stream = (*stream, len(begun.tokens))
        self._search: Search = start_search(strategy, spec, slots, stream, begun)
        self.n_candidates = self._search.n_candidates
        self.n_exact = 0 if self.temperature > 0 else self.n_candidates
        # The last token may be sampled with the context full: it is never fed back.
        context = spec.model.n_text_ctx
        room = context - len(task.prompt.tokens) + 1
        self._most = min(sampling.sample_len, room)
        self._left = self._most - len(begun.tokens)
        self._last_ahead = context - MOST_AHEAD

    @property
    def rows(self) -> list[Row]:
        """The rows to run next; empty when it has ended."""
        return self._search.rows

    @property
    def mask(self) -> Float32:
        """What is added to the logits of its tokens, float32 [2, n_vocab]."""
        return self.sampling.suppress

    @property
    def first_mask(self) -> Float32:
        """The same for its first token, at which what stands already does not end."""
        return self.sampling.suppress_end if self.task.begun.tokens else self.mask

    def uniforms(self) -> Float32:
        """float32 [rows] in [0, 1), one for each row's next sample."""
        return self._search.uniforms()

    def position(self, row: Row) -> int:
        """Where a row's newest token stands."""
        return len(self.task.prompt.tokens) + len(row.sampled) - 1

    def rule_columns(self, sampled: Sequence[int]) -> RuleState:
        """What the rules need to know of a row that has sampled these tokens."""
        limit = self.sampling.max_initial_timestamp_index
        return rule_columns(sampled, self.sampling.with_timestamps, self._tokens, limit)

    def prefill_rows(self) -> list[PrefillRow]:
        """What starts its rows."""
        prompt, begun = self.task.prompt, self.task.begun.tokens
        state = np.array(self.rule_columns(begun), dtype=np.int32)
        return [
            PrefillRow(
                (*prompt.tokens, *begun),
                row.slot,
                self.task.window,
                prompt.sot_index,
                state,
                self.temperature,
                float(uniform),
            )
            for row, uniform in zip(self.rows, self.uniforms(), strict=True)
        ]

    def take(self, candidates: Int32, logprobs: Float32) -> list[tuple[int, int, int, int]]:
        """Take the candidates of its rows, [rows, k] each.

        Returns:
            What is to be copied where rows split: source and target slots, and the first and the
            end of the positions.
        """
        wanted = self.n_candidates
        copies = self._search.take(candidates[:, :wanted], logprobs[:, :wanted])
        self._left -= 1
        if self._left <= 0:
            self._search.end()
        if not self.rows:
            return []
        # What is copied has been fed: the prompt and all sampled tokens but the newest.
        end = self.position(self.rows[0])
        return [
            (copy.source, copy.target, 0 if copy.n_new is None else end - copy.n_new, end)
            for copy in copies
        ]

    @property
    def can_go_ahead(self) -> bool:
        """Whether it is one greedy row, with room for as many tokens as may be fed."""
        if self.temperature > 0 or len(self.slots) > 1:
            return False
        return self.position(self.rows[0]) <= self._last_ahead

    def take_ahead(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """Take what `Decoder.steps` chose for its row, until it ends."""
        assert isinstance(self._search, Samples)  # what goes ahead is one greedy row
        self._search.take_ahead(tokens[: self._left], logprobs[: self._left])
        self._left -= len(tokens)
        if self._left <= 0:
            self._search.end()

    def going_on(self) -> Task | None:
        """The task of finding more after what it found, once it has ended; None without room."""
        best = self._search.best()
        if not best.tokens or len(best.tokens) >= self._most:
            return None
        return replace(self.task, begun=best.without_end())

    def result(self, tokenizer: Tokenizer) -> WindowResult:
        """The best transcript found, once it has ended."""
        best, begun = self._search.best(), self.task.begun
        n_new = len(best.tokens) - len(begun.tokens)
        text = tokenizer.decode(best.tokens).strip()
        return WindowResult(
            tokens=best.tokens,
            text=text,
            avg_logprob=best.sum_logprob / (len(best.tokens) + 1),
            no_speech_prob=self.no_speech_prob,
            compression_ratio=compression_ratio(text),
            temperature=self.temperature,
            new_logprob=(best.sum_logprob - begun.sum_logprob) / (n_new + 1),
        )
