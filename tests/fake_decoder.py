"""A model for tests: the `Decoder` protocol over a function from tokens to logits, no MAX needed.

It keeps slots as the real one does and fails on what would corrupt them: a step at a wrong
position, a slot used twice in one call, a row of a window that was never encoded.
"""

import base64
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mwc.runtime import rules
from mwc.runtime.decoder import (
    ENCODED_TOGETHER,
    STEPS_AHEAD,
    Choice,
    Float32,
    Int32,
    PrefillResult,
    PrefillRow,
    StepBatch,
)
from mwc.runtime.spec import AudioSpec, ModelSpec, TokenSpec, WhisperSpec
from mwc.runtime.tokenizer import SPECIAL_TOKENS_FILE, VOCABULARY_FILE, Tokenizer

N_FRAMES = 3000


@dataclass(frozen=True)
class FakeWindow:
    """What a fake decoder knows of encoded audio: where it starts and how many frames count."""

    start: int
    n_frames: int


Logits = Callable[[FakeWindow, tuple[int, ...]], Float32]
"""From a window and all tokens of a row, prompt included, to float32 [n_vocab]."""


def attention(window: FakeWindow, tokens: tuple[int, ...], head: int) -> Float32:
    """Scores of an alignment head, float32 [tokens, 1500]: noise around a wavering way onwards.

    Some tokens take long and some no time, so that every correction has something to correct.
    """
    rng = np.random.default_rng(zlib.crc32(repr((window, tokens)).encode()))
    steps = rng.choice([0.0, 1.0, 4.0, 40.0], len(tokens), p=[0.1, 0.4, 0.4, 0.1])
    centres = np.cumsum(steps) * rng.choice([0.3, 1.0, 5.0])
    distance = np.abs(np.arange(1500) - centres[:, None])
    noise = np.random.default_rng(head).normal(0, 0.3, distance.shape)
    return (noise - np.minimum(distance, 60) / 6).astype(np.float32)


@dataclass
class FakeDecoder:
    """A `Decoder` whose logits come from a function."""

    spec: WhisperSpec
    logits: Logits
    n_windows: int = 2
    n_rows: int = 3
    encoded_together: int = ENCODED_TOGETHER
    heard_ahead: int = 0
    heard_together: int = 1
    windows: dict[int, FakeWindow] = field(default_factory=dict)
    rows: dict[int, list[int]] = field(default_factory=dict)
    encoded: list[FakeWindow] = field(default_factory=list)
    prompts: list[tuple[int, ...]] = field(default_factory=list)
    batch_sizes: list[int] = field(default_factory=list)
    wanted: list[list[int]] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    aligned: list[tuple[int, ...]] = field(default_factory=list)

    def log_mel(self, samples: Float32) -> Float32:
        return np.zeros((len(samples), 1000, self.spec.model.n_mels), dtype=np.float32)

    def vad(self, samples: Float32, states: Float32, counts: Int32) -> tuple[Float32, Float32]:
        """Speech is where a sample is not zero; the states count the frames."""
        assert samples.shape == (counts.sum(), 576)
        assert states.shape == (len(counts), 2, 128)
        assert samples.dtype == states.dtype == np.float32
        assert counts.dtype == np.int32
        assert counts.min() > 0
        counted = states + counts.astype(np.float32)[:, None, None]
        return samples[:, 64:].any(axis=1).astype(np.float32), counted

    def encode(
        self, log_mel: Float32, log_mel_max: Float32, n_frames: Int32, windows: Int32
    ) -> None:
        batch = len(windows)
        assert log_mel.shape == (batch, N_FRAMES, self.spec.model.n_mels)
        assert log_mel.dtype == np.float32
        assert log_mel_max.shape == (batch,)
        assert log_mel_max.dtype == np.float32
        assert n_frames.shape == (batch,)
        assert n_frames.dtype == windows.dtype == np.int32
        for k, slot in enumerate(windows.tolist()):
            assert 0 <= slot < self.n_windows
            self.windows[slot] = FakeWindow(int(log_mel[k, 0, 0]), int(n_frames[k]))
            self.encoded.append(self.windows[slot])

    def prefill(
        self, rows: Sequence[PrefillRow], suppress: Float32, n_candidates: int = 1
    ) -> PrefillResult:
        assert 0 < len({row.row for row in rows}) == len(rows) <= self.n_rows
        for row in rows:
            assert 0 <= row.row < self.n_rows
            assert 1 <= len(row.tokens) <= self.spec.model.n_text_ctx
            assert row.tokens[row.sot_index] == self.spec.tokens.sot
            self.rows[row.row] = list(row.tokens)
            self.prompts.append(row.tokens)
        choice = self._choose(
            [row.row for row in rows],
            [row.window for row in rows],
            suppress,
            np.stack([row.rule_state for row in rows]),
            np.array([row.temperature for row in rows], np.float32),
            np.array([row.uniform for row in rows], np.float32),
            n_candidates,
        )
        probs = np.stack(
            [
                np.exp(
                    rules.log_softmax(
                        self.logits(self.windows[row.window], row.tokens[: row.sot_index + 1])
                    )
                )
                for row in rows
            ]
        )
        languages = probs[:, [token for _, token in self.spec.tokens.languages]]
        return PrefillResult(
            choice=choice,
            no_speech_probs=probs[:, self.spec.tokens.no_speech],
            language_probs=languages / languages.sum(axis=1, keepdims=True),
        )

    def step(self, batch: StepBatch, suppress: Float32, n_candidates: int = 1) -> Choice:
        slots = batch.rows.tolist()
        assert len(set(slots)) == len(slots) == len(batch.tokens) == len(batch.windows)
        self.batch_sizes.append(len(slots))
        if batch.wanted is not None:
            assert batch.wanted.shape == batch.tokens.shape
            assert batch.wanted.max() <= n_candidates
            self.wanted.append(batch.wanted.tolist())
        for token, slot, position in zip(
            batch.tokens.tolist(), slots, batch.positions.tolist(), strict=True
        ):
            assert position == len(self.rows[slot]) < self.spec.model.n_text_ctx
            self.rows[slot].append(token)
        return self._choose(
            slots,
            batch.windows.tolist(),
            suppress,
            batch.rule_states,
            batch.temperatures,
            batch.uniforms,
            n_candidates,
        )

    def steps(self, batch: StepBatch, suppress: Float32) -> Choice:
        """As the real one, except that a row that has ended is left alone."""
        begin, eot = self.spec.tokens.timestamp_begin, self.spec.tokens.eot
        tokens = np.full((len(batch.tokens), STEPS_AHEAD), eot, np.int32)
        logprobs = np.zeros(tokens.shape, np.float32)
        going_on = np.arange(len(tokens))
        for i in range(STEPS_AHEAD):
            choice = self.step(batch, suppress)
            tokens[going_on, i], logprobs[going_on, i] = choice.tokens, choice.logprobs
            kept = choice.tokens != eot
            going_on = going_on[kept]
            if not kept.any():
                break
            fed = rules.feed(batch, choice.tokens, begin)
            batch = StepBatch(
                fed.tokens[kept],
                fed.rows[kept],
                fed.positions[kept],
                fed.windows[kept],
                fed.rule_states[kept],
            )
        return Choice(tokens, logprobs)

    def copy_rows(self, sources: Int32, targets: Int32, starts: Int32, ends: Int32) -> None:
        assert sources.dtype == targets.dtype == starts.dtype == ends.dtype == np.int32
        assert len(set(targets.tolist())) == len(targets)
        assert not set(sources.tolist()) & set(targets.tolist())
        for source, target, start, end in zip(
            sources.tolist(), targets.tolist(), starts.tolist(), ends.tolist(), strict=True
        ):
            assert 0 <= target < self.n_rows
            assert 0 <= start <= end == len(self.rows[source])
            if start:
                assert self.rows[target][:start] == self.rows[source][:start]
            self.rows[target] = list(self.rows[source])
            self.copies.append((source, target))

    def check_memory(self, n_windows: int, n_rows: int) -> None:
        pass

    def reserve(self, n_windows: int, n_rows: int) -> None:
        if self.n_windows < n_windows:
            self.n_windows = n_windows
            self.windows.clear()
        if self.n_rows < n_rows:
            self.n_rows = n_rows
            self.rows.clear()

    def align(self, tokens: Sequence[int], window: int, row: int = 0) -> tuple[Float32, Float32]:
        tokens = tuple(tokens)
        assert 1 <= len(tokens) <= self.spec.model.n_text_ctx
        assert 0 <= row < self.n_rows
        self.aligned.append(tokens)
        self.rows[row] = list(tokens)
        heard = self.windows[window]
        heads = range(len(self.spec.tokens.alignment_heads))
        scores = np.stack([attention(heard, tokens, head) for head in heads])
        logits = np.stack([self.logits(heard, tokens[: i + 1]) for i in range(len(tokens))])
        return scores, logits

    def _choose(
        self,
        slots: list[int],
        windows: list[int],
        suppress: Float32,
        states: Int32,
        temperatures: Float32 | None,
        uniforms: Float32 | None,
        n_candidates: int,
    ) -> Choice:
        logits = np.stack(
            [
                self.logits(self.windows[window], tuple(self.rows[slot]))
                for slot, window in zip(slots, windows, strict=True)
            ]
        )
        return rules.choose(
            logits,
            suppress,
            states,
            self.spec,
            temperatures=temperatures,
            uniforms=uniforms,
            n_candidates=n_candidates,
        )


@dataclass(frozen=True)
class FakeFeatures:
    """Log-mel windows that say in their first value where they start."""

    n_frames: int
    n_mels: int
    log_mel_max: float = 0.5

    @property
    def n_samples(self) -> int:
        return self.n_frames * 160

    @property
    def duration(self) -> float:
        return self.n_frames / 100

    def window(
        self, seek: int, *, keep_from: int | None = None, into: Float32 | None = None
    ) -> Float32:
        assert keep_from is None or 0 <= keep_from <= seek
        frames = np.empty((N_FRAMES, self.n_mels), np.float32) if into is None else into
        frames[:] = -10.0
        frames[0, 0] = seek
        return frames

    @property
    def name(self) -> str:
        return "<fake>"

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        pass


def fake_dimensions(n_vocab: int, n_text_ctx: int = 448) -> ModelSpec:
    """Dimensions that a fake decoder needs; the others do not matter."""
    return ModelSpec(
        n_mels=80,
        n_audio_ctx=1500,
        n_audio_state=64,
        n_audio_head=1,
        n_audio_layer=1,
        n_audio_mlp=64,
        n_vocab=n_vocab,
        n_text_ctx=n_text_ctx,
        n_text_state=64,
        n_text_head=1,
        n_text_layer=1,
        n_text_mlp=64,
    )


def fake_special_tokens(languages: Sequence[str] = ("en", "de", "fr")) -> dict[str, int]:
    """Special tokens after 256 one-byte text tokens, in Whisper's order."""
    names = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in languages)]
    names += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"]
    names += ["<|nospeech|>", "<|notimestamps|>", *(f"<|{i * 0.02:.2f}|>" for i in range(1501))]
    return {name: 256 + i for i, name in enumerate(names)}


def fake_spec(languages: Sequence[str] = ("en", "de", "fr"), n_text_ctx: int = 448) -> WhisperSpec:
    """A small model: every byte is a text token; no languages makes it English-only."""
    ids = fake_special_tokens(languages)
    tokens = TokenSpec(
        eot=ids["<|endoftext|>"],
        sot=ids["<|startoftranscript|>"],
        sot_prev=ids["<|startofprev|>"],
        no_speech=ids["<|nospeech|>"],
        no_timestamps=ids["<|notimestamps|>"],
        timestamp_begin=ids["<|0.00|>"],
        transcribe=ids["<|transcribe|>"] if languages else None,
        translate=ids["<|translate|>"] if languages else None,
        languages=tuple((code, ids[f"<|{code}|>"]) for code in languages),
        suppress_tokens=(
            ord("#"),
            ord("*"),
            ids["<|startoftranscript|>"],
            ids["<|translate|>"],
            ids["<|transcribe|>"],
            ids["<|startoflm|>"],
            ids["<|startofprev|>"],
            ids["<|nospeech|>"],
        ),
        begin_suppress_tokens=(ord(" "), ids["<|endoftext|>"]),
        max_initial_timestamp_index=50,
        alignment_heads=((0, 0), (0, 1)),
        alignment_heads_derived=True,
    )
    return WhisperSpec(fake_dimensions(256 + len(ids), n_text_ctx), AudioSpec(), tokens)


def fake_tokenizer(folder: Path, spec: WhisperSpec) -> Tokenizer:
    """Write the two files of `fake_spec`'s vocabulary and read them."""
    lines = [f"{base64.b64encode(bytes([b])).decode()} {b}\n" for b in range(256)]
    (folder / VOCABULARY_FILE).write_text("".join(lines))
    ids = fake_special_tokens([code for code, _ in spec.tokens.languages])
    (folder / SPECIAL_TOKENS_FILE).write_text(json.dumps(ids))
    return Tokenizer(folder, spec.tokens)


def scripted(
    spec: WhisperSpec,
    script: Callable[[FakeWindow], Sequence[int]],
    *,
    no_speech_prob: float = 0.0,
    certainty: float = 20.0,
    more: Sequence[int] = (),
) -> Logits:
    """Logits that follow a script of tokens for each window, then eot.

    Args:
        spec: the model.
        script: the tokens a window is to give; the rules still apply.
        no_speech_prob: what `<|nospeech|>` gets at sot.
        certainty: by how much the logit of the scripted token leads.
        more: tokens that come after those of the script where it may not end there, then eot.
    """
    end_of_prompt = {spec.tokens.sot, spec.tokens.no_timestamps}
    end_of_prompt |= {token for _, token in spec.tokens.languages}
    end_of_prompt |= {t for t in (spec.tokens.transcribe, spec.tokens.translate) if t is not None}

    def logits(window: FakeWindow, tokens: tuple[int, ...]) -> Float32:
        values = np.zeros(spec.model.n_vocab, dtype=np.float32)
        if tokens[-1] == spec.tokens.sot and spec.tokens.is_multilingual:
            values[:] = -np.inf
            values[spec.tokens.no_speech] = np.log(max(no_speech_prob, 1e-9))
            values[spec.tokens.languages[0][1]] = np.log(1 - no_speech_prob)
            return values
        start = max(i for i, token in enumerate(tokens) if token in end_of_prompt) + 1
        n_sampled = len(tokens) - start
        said = script(window)
        lines = [*said, *more, spec.tokens.eot]
        values[lines[min(n_sampled, len(lines) - 1)]] = certainty
        if more and n_sampled == len(said):
            values[spec.tokens.eot] = certainty + 5.0
        return values

    return logits


def noise(spec: WhisperSpec, seed: int = 0) -> Logits:
    """Logits that any change of the window or the tokens changes, with text, times and ends.

    Every third window seems silent; timestamps go up with the length of the row; a row that was
    started with `<|notimestamps|>` gives none.
    """
    t = spec.tokens

    def logits(window: FakeWindow, tokens: tuple[int, ...]) -> Float32:
        key = repr((seed, window.start, window.n_frames, tokens)).encode()
        rng = np.random.default_rng(zlib.crc32(key))
        values = rng.normal(0, 2, spec.model.n_vocab).astype(np.float32)
        values[t.eot + 1 : t.timestamp_begin] -= 8
        values[t.timestamp_begin :] -= np.float32(rng.choice([1.0, 3.0, 6.0]))
        distance = np.abs(np.arange(1501) - 40 * (len(tokens) % 40)).astype(np.float32)
        values[t.timestamp_begin :] -= distance / 50 + 30 * (t.no_timestamps in tokens)
        values[t.eot] += 20 if rng.random() < 0.04 else -8
        if tokens[-1] == t.sot and window.start % 3 == 2:
            values[t.no_speech] += 20
        return values

    return logits
