"""Decoding of 30 s windows: prompts in, tokens and their scores out.

Written over any number of windows at once. Their searches share the decoder's row slots, start as
slots fall free and finish independently; what a window gives does not depend on its neighbours.

Algorithm: openai/whisper `whisper/decoding.py`, `DecodingTask`, one window's rows apart.
"""

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mwc.runtime.decoder import Choice, Decoder, Float32, PrefillRow, StepBatch
from mwc.runtime.errors import OptionError
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.rules import rule_state, suppress_mask
from mwc.runtime.search import GREEDY, Search, Strategy, start_search
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sampling:
    """What holds for every row of a call.

    Attributes:
        suppress: float32 [2, n_vocab], from `rules.suppress_mask`.
        with_timestamps: whether the timestamp rules apply.
        max_initial_timestamp_index: highest first timestamp in 20 ms steps; None for no limit.
        sample_len: most tokens a row samples, eot included.
        strategy: how each window is searched.
    """

    suppress: Float32
    with_timestamps: bool
    max_initial_timestamp_index: int | None
    sample_len: int
    strategy: Strategy = GREEDY


@dataclass(frozen=True)
class Prompt:
    """What a row starts from: all tokens before the first sampled one, and where sot stands."""

    tokens: tuple[int, ...]
    sot_index: int


@dataclass(frozen=True)
class Task:
    """One encoded window to decode.

    Attributes:
        prompt: what its rows start from.
        window: its slot.
        stream: names its random numbers, for example by where it starts in the file.
    """

    prompt: Prompt
    window: int
    stream: tuple[int, ...] = ()


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
    """

    tokens: tuple[int, ...]
    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float


def sampling_for(spec: WhisperSpec, options: TranscribeOptions) -> Sampling:
    """Turn options into what every row of a transcription samples by.

    Raises:
        OptionError: `suppress_tokens` holds an id that is not in the vocabulary.
    """
    with_timestamps = not options.without_timestamps
    limit = None
    if options.max_initial_timestamp:
        # openai/whisper's quotient: a product with 50 rounds 0.47 s and others the other way.
        seconds_per_token = spec.audio.chunk_length / spec.model.n_audio_ctx
        limit = round(options.max_initial_timestamp / seconds_per_token)
    return Sampling(
        suppress=suppress_mask(
            spec, options.suppress_tokens, options.suppress_blank, with_timestamps
        ),
        with_timestamps=with_timestamps,
        max_initial_timestamp_index=limit,
        sample_len=options.sample_len or spec.model.n_text_ctx // 2,
        strategy=Strategy(
            temperature=options.temperature[0],
            beam_size=options.beam_size,
            best_of=options.best_of,
            patience=options.patience,
            length_penalty=options.length_penalty,
            seed=options.seed,
        ),
    )


def make_prompt(
    spec: WhisperSpec,
    tokenizer: Tokenizer,
    options: TranscribeOptions,
    language: str,
    previous: Sequence[int] = (),
) -> Prompt:
    """Put a window's prompt together: previous text, sot sequence, prefix.

    Args:
        spec: the model.
        tokenizer: its tokenizer.
        options: task, timestamps, prefix and sample_len count.
        language: a code of the model's languages; without meaning for an English-only model.
        previous: tokens of the text before the window; the last n_text_ctx / 2 - 1 are used.

    Raises:
        OptionError: the prefix is too long, or holds a special token.
    """
    half = spec.model.n_text_ctx // 2
    sequence = tokenizer.sot_sequence(language, options.task, not options.without_timestamps)
    prefix: list[int] = []
    if options.prefix:
        prefix = tokenizer.encode(" " + options.prefix.strip())
        # As in openai/whisper: a prefix gives way to a sample_len below half the context.
        room = half - (options.sample_len or half)
        prefix = prefix[-room:] if room > 0 else prefix
        if len(prefix) > half - len(sequence):
            raise OptionError(
                f"prefix is {len(prefix)} tokens long; the prompt has room for "
                f"{half - len(sequence)}, shorten it."
            )
    before = [spec.tokens.sot_prev, *previous[-(half - 1) :]] if previous else []
    return Prompt(tokens=(*before, *sequence, *prefix), sot_index=len(before))


def compression_ratio(text: str) -> float:
    """Bytes of the text over its zlib-compressed bytes (openai/whisper `utils.py`)."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


def decode_window(
    decoder: Decoder, tokenizer: Tokenizer, task: Task, sampling: Sampling
) -> WindowResult:
    """Decode one encoded window; `decode_windows` for one."""
    return decode_windows(decoder, tokenizer, [task], sampling)[0]


def decode_windows(
    decoder: Decoder, tokenizer: Tokenizer, tasks: Sequence[Task], sampling: Sampling
) -> list[WindowResult]:
    """Decode encoded windows together, as many at a time as there are row slots for.

    Args:
        decoder: the model; its window slots are encoded already, its row slots are all free.
        tokenizer: its tokenizer.
        tasks: what to decode.
        sampling: how.

    Returns:
        The results in the order of `tasks`.
    """
    width = sampling.strategy.width
    if decoder.n_rows < width:
        raise ValueError(f"a search takes {width} row slots and there are {decoder.n_rows}")
    waiting = deque(_Search(task) for task in tasks)
    searches = list(waiting)
    free = list(range(decoder.n_rows))
    active: list[_Search] = []
    while waiting or active:
        started = [waiting.popleft() for _ in range(min(len(waiting), len(free) // width))]
        for search in started:
            slots, free = free[:width], free[width:]
            search.begin(decoder.spec, sampling, slots)
        if started:
            _prefill(decoder, started, sampling)
        going_on = [search for search in active if search.state.rows]
        if going_on:
            _step(decoder, going_on, sampling)
        active = [*going_on, *started]
        for search in active:
            if not search.state.rows:
                free += search.state.slots
        active = [search for search in active if search.state.rows]
    return [search.result(tokenizer) for search in searches]


class _Search:
    """A task under way: its search, and how far it may still go."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.no_speech_prob = float("nan")
        self.state: Search

    def begin(self, spec: WhisperSpec, sampling: Sampling, slots: Sequence[int]) -> None:
        """Take row slots."""
        strategy = sampling.strategy
        stream = (*self.task.stream, round(100 * strategy.temperature))
        self.state = start_search(strategy, spec, slots, stream)
        # The last token may be sampled with the context full: it is never fed back.
        room = spec.model.n_text_ctx - len(self.task.prompt.tokens) + 1
        self._left = min(sampling.sample_len, room)

    def take(self, decoder: Decoder, choice: Choice, rows: slice) -> None:
        """Take this task's part of a choice; copy the rows that split."""
        copies = self.state.take(choice.candidates[rows], choice.candidate_logprobs[rows])
        self._left -= 1
        if self._left <= 0:
            self.state.end()
        elif copies:
            # What is copied has been fed: the prompt and all sampled tokens but the newest.
            length = len(self.task.prompt.tokens) + len(self.state.rows[0].sampled) - 1
            decoder.copy_rows(
                np.array([copy.source for copy in copies], dtype=np.int32),
                np.array([copy.target for copy in copies], dtype=np.int32),
                np.full(len(copies), length, dtype=np.int32),
            )

    def result(self, tokenizer: Tokenizer) -> WindowResult:
        """The best transcript found."""
        best = self.state.best()
        text = tokenizer.decode(best.tokens).strip()
        return WindowResult(
            tokens=best.tokens,
            text=text,
            avg_logprob=best.sum_logprob / (len(best.tokens) + 1),
            no_speech_prob=self.no_speech_prob,
            compression_ratio=compression_ratio(text),
            temperature=self.state.strategy.temperature,
        )


def _prefill(decoder: Decoder, searches: Sequence[_Search], sampling: Sampling) -> None:
    """Run the prompts of new rows and take their first tokens."""
    state = rule_state(
        (), sampling.with_timestamps, decoder.spec.tokens, sampling.max_initial_timestamp_index
    )
    rows = [
        PrefillRow(
            search.task.prompt.tokens,
            row.slot,
            search.task.window,
            search.task.prompt.sot_index,
            state,
            sampling.strategy.temperature,
            float(uniform),
        )
        for search in searches
        for row, uniform in zip(search.state.rows, search.state.uniforms(), strict=True)
    ]
    result = decoder.prefill(rows, sampling.suppress, searches[0].state.n_candidates)
    first = 0
    for search in searches:
        rows_of = slice(first, first + len(search.state.rows))
        search.no_speech_prob = float(result.no_speech_probs[first])
        search.take(decoder, result.choice, rows_of)
        first = rows_of.stop


def _step(decoder: Decoder, searches: Sequence[_Search], sampling: Sampling) -> None:
    """Feed each row its last token and take the next."""
    tokens = decoder.spec.tokens
    limit = sampling.max_initial_timestamp_index
    rows = [(search, row) for search in searches for row in search.state.rows]
    batch = StepBatch(
        tokens=np.array([row.sampled[-1] for _, row in rows], dtype=np.int32),
        rows=np.array([row.slot for _, row in rows], dtype=np.int32),
        positions=np.array(
            [len(search.task.prompt.tokens) + len(row.sampled) - 1 for search, row in rows],
            dtype=np.int32,
        ),
        windows=np.array([search.task.window for search, _ in rows], dtype=np.int32),
        rule_states=np.stack(
            [rule_state(row.sampled, sampling.with_timestamps, tokens, limit) for _, row in rows]
        ),
        temperatures=np.full(len(rows), sampling.strategy.temperature, dtype=np.float32),
        uniforms=np.concatenate([search.state.uniforms() for search in searches]),
    )
    choice = decoder.step(batch, sampling.suppress, searches[0].state.n_candidates)
    first = 0
    for search in searches:
        rows_of = slice(first, first + len(search.state.rows))
        search.take(decoder, choice, rows_of)
        first = rows_of.stop
