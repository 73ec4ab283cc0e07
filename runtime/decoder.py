"""What decoding needs of a model, as a protocol: windows of audio, rows of tokens, one choice each.

`session.py` implements it over MAX; tests implement it without a model. A window is 30 s of audio
with its cross-attention keys and values; a row is one hypothesis with its own self-attention
cache; a row points at a window. Rows of one call never read each other's data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mwc.runtime.spec import WhisperSpec

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

PIECE_FRAMES = 1000
"""Log-mel frames computed from one piece of samples: 10 s."""

PIECE_SAMPLES = 160240
"""Samples one piece takes: 999 hops of 160 and one 400-sample frame, centred like torch.stft."""

KEYS_PER_BLOCK = 16
"""Key caches hold blocks of 16 positions, each [64, 16]: position fastest, then the head's axes."""

TEXT_KEY_SHAPE = (28, 64, KEYS_PER_BLOCK)
"""One head's self-attention keys of a row: 448 positions in blocks."""

TEXT_VALUE_SHAPE = (448, 64)
"""One head's self-attention values of a row."""

AUDIO_KEY_SHAPE = (94, 64, KEYS_PER_BLOCK)
"""One head's cross-attention keys of a window: 1500 positions in blocks (the last 4 unused)."""

AUDIO_VALUE_SHAPE = (1500, 64)
"""One head's cross-attention values of a window."""

AUDIO_KEY_BYTES_SHAPE = (94, 1088)
"""The same in 8 bits: a block's [16, 16, 4] bytes, then its keys' 16 units as float32."""

AUDIO_VALUE_BYTES_SHAPE = (96768,)
"""The same values in 8 bits: [4, 376, 16, 4] bytes, then the axes' 64 units and 64 middles as
float32."""

VAD_FRAME = 512
"""Samples of which one probability of speech tells: 32 ms (Silero VAD at 16 kHz)."""

VAD_CONTEXT = 64
"""Samples before a frame that the speech detector sees with it; zeros before the first frame."""

VAD_STATE_SHAPE = (2, 128)
"""Sizes of the speech detector's state: the LSTM's hidden state and cells; zeros at the start."""

STEPS_AHEAD = 4
"""Greedy tokens of a row that one call of `steps` chooses. Between two calls the caller costs about
as much as a step of a small model; of what is chosen, what follows an end is thrown away."""

DRAFTED_STEPS = 6
"""Greedy tokens of a row that one call of `steps` feeds in float32 on a CPU, all but the first
drafted by int8 copies of the weights: as many as its kernels take at a time."""

STEPS_UNTIL_END = 16
"""Greedy tokens of a row that one call of `steps` chooses in int8, unless a row ends: the call ends
with it, so that nothing is chosen in vain and whoever waits for the row's place gets it."""

MOST_AHEAD = max(STEPS_AHEAD, DRAFTED_STEPS, STEPS_UNTIL_END)
"""Tokens that one call of `Decoder.steps` feeds at most: it needs room for so many."""

ENCODED_TOGETHER = 8
"""Windows that a GPU encodes in one call at most: what an encoder works in grows with them, tens of
MB each, and more of them make none faster. On a CPU one is enough for all threads, which find what
they work in still in cache (tiny.en int8, 2 Zen 3 CPUs: 3.19 s for what takes 3.28 s by eight)."""

HEARD_AHEAD = 8
"""Files that are heard before there is room for them, for a GPU, each in a thread: decoding and
resampling are the CPU's work, and those heard at the same time share their calls of the GPU. The
log-mel frames of half an hour are 92 MB, so these are 736 MB at most. On a CPU the graphs keep all
cores busy."""

HEARD_TOGETHER = HEARD_AHEAD
"""Files that a GPU computes log-mel frames for, or detects speech in, in one call at most: 10 s of
samples take it about 6 MB to work in, and a call has up to 30 s of each. On a CPU a call keeps all
cores busy with one, and is not spared the others' work."""

RULE_STATE_SIZE = 6
"""Columns of a row's rule state; see `rules.rule_state`."""


@dataclass(frozen=True)
class PrefillRow:
    """One row to start.

    Attributes:
        tokens: the prompt, ending with the last token before the first sampled one; 1 to
            n_text_ctx ids.
        row: the row slot that holds its self-attention cache.
        window: the window slot it listens to.
        sot_index: where in `tokens` the sot stands: `no_speech_prob` and the language
            probabilities are read there.
        rule_state: int32 [RULE_STATE_SIZE], as `rules.rule_state` gives for no sampled tokens.
        temperature: 0 for the likeliest tokens, above for a sample.
        uniform: in [0, 1), what a sample is drawn with; without meaning at temperature 0.
    """

    tokens: tuple[int, ...]
    row: int
    window: int
    sot_index: int
    rule_state: Int32
    temperature: float = 0.0
    uniform: float = 0.0


@dataclass(frozen=True)
class PrefillResult:
    """What a prefill chose, per row in order.

    Attributes:
        choice: each row's first candidates.
        no_speech_probs: float32 [rows], softmax at sot, before any filter.
        language_probs: float32 [rows, n_languages], softmax at sot over the language tokens in
            the order of `TokenSpec.languages`; [rows, 0] where the model has none.
    """

    choice: "Choice"
    no_speech_probs: Float32
    language_probs: Float32

    @property
    def tokens(self) -> Int32:
        """int32 [rows], each row's best first token."""
        return self.choice.tokens

    @property
    def logprobs(self) -> Float32:
        """float32 [rows], its log-probability after the filters."""
        return self.choice.logprobs


@dataclass(frozen=True)
class StepBatch:
    """One token for each active row.

    Attributes:
        tokens: int32 [rows], the last sampled token of each row.
        rows: int32 [rows], row slots.
        positions: int32 [rows], where each token stands in its row, 0-based.
        windows: int32 [rows], window slots.
        rule_states: int32 [rows, RULE_STATE_SIZE], state after `tokens` were sampled.
        temperatures: float32 [rows], 0 for the likeliest tokens, above for a sample; None: all 0.
        uniforms: float32 [rows] in [0, 1), what samples are drawn with; None: all 0.
        wanted: int32 [rows], how many of a row's candidates its search looks at, 0 where any token
            may be sampled: int8 models compute the logits of others roughly, so this must not
            depend on a row's company. None: the call's candidates, 0 with temperatures.
    """

    tokens: Int32
    rows: Int32
    positions: Int32
    windows: Int32
    rule_states: Int32
    temperatures: Float32 | None = None
    uniforms: Float32 | None = None
    wanted: Int32 | None = None


ABSENT = -1e30
"""Log-probability of a candidate that is none: fewer tokens were allowed than asked for."""


@dataclass(frozen=True)
class Choice:
    """What a step chose.

    Attributes:
        candidates: int32 [rows, k] token ids: the likeliest first, or one sample.
        candidate_logprobs: float32 [rows, k], their log-probabilities after the filters, at
            temperature 1; ABSENT where there is no k-th candidate.
        lengths: of `Decoder.steps`, int32 [rows]: how many of a row's tokens count, 1 to k; None:
            all.
    """

    candidates: Int32
    candidate_logprobs: Float32
    lengths: Int32 | None = None

    def length(self, row: int) -> int:
        """How many of a row's tokens count, of `Decoder.steps`."""
        return self.candidates.shape[1] if self.lengths is None else int(self.lengths[row])

    def by_row(self) -> Iterator[tuple[list[int], list[float]]]:
        """The tokens that count of each row, and their log-probabilities, of `Decoder.steps`."""
        all_of = zip(self.candidates.tolist(), self.candidate_logprobs.tolist(), strict=True)
        for row, (tokens, logprobs) in enumerate(all_of):
            length = self.length(row)
            yield tokens[:length], logprobs[:length]

    def up_to(self, eot: int) -> "Choice":
        """The same, of `Decoder.steps`, with each row's tokens up to its first eot."""
        ends = self.candidates == eot
        if not ends.any():
            return self
        lengths = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, ends.shape[1])
        if self.lengths is not None:
            lengths = np.minimum(lengths, self.lengths)
        return replace(self, lengths=lengths.astype(np.int32))

    @property
    def tokens(self) -> Int32:
        """int32 [rows], each row's first candidate."""
        first: Int32 = self.candidates[:, 0]
        return first

    @property
    def logprobs(self) -> Float32:
        """float32 [rows], its log-probability."""
        first: Float32 = self.candidate_logprobs[:, 0]
        return first


class Hearing(Protocol):
    """What a file is read with, before anything is decoded: the engine."""

    @property
    def spec(self) -> WhisperSpec:
        """The model's dimensions, audio constants and tokens."""
        ...

    def log_mel(self, samples: Float32) -> Float32:
        """Raw log10-mel frames: float32 [pieces, 160240] -> [pieces, 1000, n_mels]."""
        ...

    def vad(self, samples: Float32, state: Float32) -> tuple[Float32, Float32]:
        """How likely frames of a file hold speech, one after the other.

        Args:
            samples: float32 [frames, 576]: VAD_CONTEXT samples, then VAD_FRAME new ones.
            state: float32 [2, 128], zeros before the first frame of a file.

        Returns:
            probabilities float32 [frames], and the state float32 [2, 128] for the next call.
        """
        ...


class Decoder(Protocol):
    """A loaded model, seen from the decoding loop."""

    @property
    def spec(self) -> WhisperSpec:
        """The model's dimensions, audio constants and tokens."""
        ...

    @property
    def n_windows(self) -> int:
        """How many window slots there are."""
        ...

    @property
    def n_rows(self) -> int:
        """How many row slots there are."""
        ...

    @property
    def encoded_together(self) -> int:
        """How many windows to encode in one call at most."""
        ...

    @property
    def heard_ahead(self) -> int:
        """How many files to hear before there is room for them."""
        ...

    @property
    def heard_together(self) -> int:
        """How many files' samples to give `log_mel` or `vad` in one call at most."""
        ...

    def log_mel(self, samples: Float32) -> Float32:
        """Raw log10-mel frames: float32 [pieces, 160240] -> [pieces, 1000, n_mels]."""
        ...

    def vad(self, samples: Float32, states: Float32, counts: Int32) -> tuple[Float32, Float32]:
        """How likely frames hold speech, of several files; each as if it were alone.

        Args:
            samples: float32 [frames, 576], as `Hearing.vad` takes them: one sequence, of a file,
                after the other.
            states: float32 [sequences, 2, 128], zeros before the first frame of a file.
            counts: int32 [sequences], how many frames each has: 1 or more, `frames` in all.

        Returns:
            probabilities float32 [frames], and the states float32 [sequences, 2, 128] after them.
        """
        ...

    def encode(
        self, log_mel: Float32, log_mel_max: Float32, n_frames: Int32, windows: Int32
    ) -> None:
        """Encode windows into their slots.

        Args:
            log_mel: float32 [b, 3000, n_mels], raw log10 mel.
            log_mel_max: float32 [b], the maximum whose value minus 8 is the floor.
            n_frames: int32 [b], frames that hold audio; the rest become 0.0 after normalising.
            windows: int32 [b], the slots to fill.
        """
        ...

    def prefill(
        self, rows: Sequence[PrefillRow], suppress: Float32, n_candidates: int = 1
    ) -> PrefillResult:
        """Run prompts and choose each row's first token.

        Args:
            rows: rows to start, in distinct slots.
            suppress: float32 [2, n_vocab] of 0 and -inf, as `rules.suppress_mask` gives.
            n_candidates: how many candidates to return per row.
        """
        ...

    def step(self, batch: StepBatch, suppress: Float32, n_candidates: int = 1) -> Choice:
        """Feed one token to each row and choose the next; other arguments as for `prefill`."""
        ...

    def steps(self, batch: StepBatch, suppress: Float32) -> Choice:
        """Take up to MOST_AHEAD greedy steps: a token chosen is fed to the next.

        Returns:
            Choice of [rows, up to MOST_AHEAD]: the tokens in their order, not candidates of one
            step; the same as `step` would have chosen one by one, as far as a row's length. A row
            ends with its eot, and all may end with the first one's.
        """
        ...

    def copy_rows(self, sources: Int32, targets: Int32, starts: Int32, ends: Int32) -> None:
        """Copy positions [start, end) of row slots `sources` to `targets`, int32 [n] each.

        What a target holds before its start has to be what its source holds there. No slot may be
        both a source and a target.
        """
        ...

    def check_memory(self, n_windows: int, n_rows: int) -> None:
        """Refuse so many slots if there is no memory for them, and change nothing.

        Raises:
            MemoryShortage: they do not fit.
        """
        ...

    def reserve(self, n_windows: int, n_rows: int) -> None:
        """Have at least so many slots; what slots hold is lost if there were fewer."""
        ...

    def align(self, tokens: Sequence[int], window: int, row: int = 0) -> tuple[Float32, Float32]:
        """Feed a whole transcript, for word times.

        Args:
            tokens: prompt and transcript, 1 to n_text_ctx ids.
            window: the window slot it listens to.
            row: the row slot whose self-attention cache it overwrites.

        Returns:
            scores float32 [alignment heads, len(tokens), 1500], before softmax, in the order of
            `TokenSpec.alignment_heads`; and logits float32 [len(tokens), n_vocab].
        """
        ...
