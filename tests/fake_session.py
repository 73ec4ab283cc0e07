"""A session for `verify` that computes with numpy, and mistakes to make in it."""

from collections.abc import Sequence

import numpy as np
from decoding import steps_one_by_one
from numpy_log_mel import numpy_log_mel

from mwc.compiler.reference_numpy import NumpyReference, softmax
from mwc.runtime.decoder import Choice, Float32, Int32, PrefillResult, PrefillRow, StepBatch
from mwc.runtime.rules import choose
from mwc.runtime.spec import WhisperSpec


class FakeSession:
    """Does what a compiled model does, one whole teacher-forced pass per token."""

    def __init__(self, tensors, spec: WhisperSpec) -> None:
        self.spec = spec
        self.n_windows = self.n_rows = 1
        self._model = NumpyReference(tensors, spec)
        self._encoded: dict[int, Float32] = {}
        self._rows: dict[int, list[int]] = {}

    def log_mel(self, samples: Float32) -> Float32:
        return numpy_log_mel(self.spec.model.n_mels)(samples)

    def normalise(self, raw: Float32, top: float, n_frames: int) -> Float32:
        features = (np.maximum(raw, top - 8) + 4) / 4
        features[n_frames:] = 0.0
        return features.astype(np.float32)

    def trace(self, log_mel: Float32, log_mel_max: Float32, n_frames: Int32) -> dict[str, Float32]:
        features = self.normalise(log_mel[0], float(log_mel_max[0]), int(n_frames[0]))
        stages = {"log_mel": features, **self._model.trace(features)}
        return {name: value[None] for name, value in stages.items()}

    def encode(
        self, log_mel: Float32, log_mel_max: Float32, n_frames: Int32, windows: Int32
    ) -> None:
        self._encoded[int(windows[0])] = self.trace(log_mel, log_mel_max, n_frames)["encoder"][0]

    def cross_kv(self, window: int) -> list[tuple[Float32, Float32]]:
        return self._model.cross_kv(self._encoded[window])

    def logits(self, tokens: list[int], window: int) -> Float32:
        return self._model.logits(self._encoded[window], tokens)

    def pick(self, logits: Float32, suppress: Float32, states: Int32) -> Choice:
        return choose(logits, suppress, states, self.spec)

    def prefill(
        self, rows: Sequence[PrefillRow], suppress: Float32, n_candidates: int = 1
    ) -> PrefillResult:
        (row,) = rows
        assert n_candidates == 1
        self._rows[row.row] = list(row.tokens)
        logits = self._model.logits(self._encoded[row.window], list(row.tokens))
        choice = self.pick(logits[-1:], suppress, row.rule_state[None])
        at_sot = logits[row.sot_index]
        languages = at_sot[[token for _, token in self.spec.tokens.languages]]
        return PrefillResult(
            choice=choice,
            no_speech_probs=softmax(at_sot)[[self.spec.tokens.no_speech]],
            language_probs=(softmax(languages) if len(languages) else languages)[None],
        )

    def step(self, batch: StepBatch, suppress: Float32, n_candidates: int = 1) -> Choice:
        assert n_candidates == 1
        row = self._rows[int(batch.rows[0])]
        assert int(batch.positions[0]) == len(row)
        row.append(int(batch.tokens[0]))
        logits = self._model.logits(self._encoded[int(batch.windows[0])], row)
        return self.pick(logits[-1:], suppress, batch.rule_states)

    def steps(self, batch: StepBatch, suppress: Float32) -> Choice:
        return steps_one_by_one(self, batch, suppress)
