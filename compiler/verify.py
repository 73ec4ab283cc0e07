"""Whether a compiled model computes what its checkpoint computes, stage by stage.

Both sides are given the reference's own features, so that each stage's error is its own and not
the log-mel's; the log-mel is compared by itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from mwc.compiler.parity import (
    Bounds,
    Difference,
    ParityReport,
    StageError,
    bounds_of,
    compare,
    worst_of,
)
from mwc.compiler.reference import Reference
from mwc.compiler.rounding import Float64, leeways, stage_values
from mwc.compiler.verify_tokens import Decoding, compare_tokens, decode
from mwc.runtime.decoder import PIECE_FRAMES, PIECE_SAMPLES, Decoder, Float32, Int32
from mwc.runtime.errors import VerificationError
from mwc.runtime.progress import Progress, ProgressEvent, silent
from mwc.runtime.spec import AudioSpec, WhisperSpec

LAYERS = ("conv", "encoder.layers.")
"""How stages before the encoder's last norm are called."""

N_STEPS = 32
"""Sampled tokens whose logits are compared."""


class SessionLike(Decoder, Protocol):
    """A loaded model that also shows what lies between its inputs and its choices."""

    def trace(self, log_mel: Float32, log_mel_max: Float32, n_frames: Int32) -> dict[str, Float32]:
        """Encoder stages as `Reference.trace`, each with a batch axis first; inputs as `encode`.

        And "log_mel": the normalised features that enter the first convolution.
        """
        ...

    def cross_kv(self, window: int) -> list[tuple[Float32, Float32]]:
        """Keys and values float32 [n_text_head, 1500, 64] per layer, of an encoded window."""
        ...

    def logits(self, tokens: list[int], window: int) -> Float32:
        """Teacher-forced logits float32 [len(tokens), n_vocab], before any filter."""
        ...


@dataclass(frozen=True)
class Features:
    """The reference's log-mel of the clip, as each side takes it.

    Attributes:
        normalised: float32 [3000, n_mels], zero from the clip's end on.
        raw: float32 [1, 3000, n_mels], the same as log10-mel, still with what follows the end.
        log_mel_max: float32 [1], the maximum of `raw`.
        n_frames: int32 [1], frames that hold the clip.
    """

    normalised: Float32
    raw: Float32
    log_mel_max: Float32
    n_frames: Int32


def verify(
    session: SessionLike,
    reference: Reference,
    spec: WhisperSpec,
    clip: Float32,
    precision: str,
    progress: Progress = silent,
) -> ParityReport:
    """Compare a loaded model with a reference on one clip, in window and row slot 0.

    The tokens are compared along the session's own: it decodes greedily, without and with
    timestamps, and at every token the reference, given the same tokens before it, chooses too.

    Args:
        session: the loaded model.
        reference: the same checkpoint, run by other code.
        spec: the model.
        clip: float32 [n], 16 kHz samples of speech; the first 30 s are used.
        precision: of the session's weights, a key of `parity.BOUNDS`.
        progress: told of each of five groups of stages.

    Raises:
        OptionError: there are no bounds for the precision.
        VerificationError: the session lacks a stage or chooses ids outside the vocabulary.
    """
    bounds = bounds_of(precision)
    n_samples = spec.audio.n_samples
    samples = np.pad(clip[:n_samples], (0, max(0, n_samples - len(clip)))).astype(np.float32)
    report = _Steps(progress, total=5)

    theirs = reference.log_mel(samples)
    stages = [_log_mel_stage(session, samples, theirs, spec.audio, bounds)]
    features = features_of(theirs, len(clip), spec.audio)
    report("log-mel")

    expected = stage_values(reference, features.normalised)
    encoder_out = expected["encoder"]
    stages.append(_padding_stage(session, features, bounds))
    report("encoder")

    ours = _stage_values(session, expected, features)
    ask_leeways = partial(leeways, reference, features.normalised, expected)
    stages += _encoder_stages(ours, expected, bounds, ask_leeways)
    report("cross-attention")

    decodings = [decode(session, spec, with_timestamps) for with_timestamps in (False, True)]
    stages += _logit_stages(session, reference, encoder_out, decodings[0], bounds)
    report("logits")

    differences: list[Difference] = []
    measured: list[tuple[StageError, StageError]] = []
    for with_timestamps, decoding in enumerate(decodings):
        logits = reference.logits(encoder_out, decoding.prompt + decoding.sampled[:-1])
        found, errors = compare_tokens(decoding, logits, spec, bool(with_timestamps), bounds)
        differences += found
        measured.append(errors)
    stages.append(worst_of("logprobs", [logprobs for logprobs, _ in measured]))
    stages.append(worst_of("probabilities", [probabilities for _, probabilities in measured]))
    report("tokens")

    compared = sum(len(d.sampled) for d in decodings)
    return ParityReport(
        reference=reference.name,
        precision=precision,
        bound=bounds.logits,
        stages=tuple(stages),
        tokens_compared=compared,
        tokens_equal=compared - len(differences),
        differences=tuple(differences),
        ok=all(s.ok for s in stages) and all(d.ok for d in differences),
    )


class _Steps:
    """Counts the finished groups of stages for the progress callback."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, name: str) -> None:
        self._done += 1
        self._progress(ProgressEvent(f"verify {name}", self._done, self._total, "stages"))


def _log_mel_stage(
    session: SessionLike, samples: Float32, theirs: Float32, audio: AudioSpec, bounds: Bounds
) -> StageError:
    """Compare the log-mel of a whole window, reflected at both ends as the reference does."""
    padded = np.pad(samples, audio.n_fft // 2, mode="reflect")
    hop = PIECE_FRAMES * audio.hop_length
    starts = range(0, len(samples), hop)
    raw = session.log_mel(np.stack([padded[s : s + PIECE_SAMPLES] for s in starts]))
    raw = raw.reshape(-1, raw.shape[-1])
    return compare("log_mel", _normalise(raw), theirs, bounds.features)


def _normalise(raw: Float32) -> Float32:
    """Clamp raw log10-mel to 8 under its maximum and scale it, in float32, as the graph does."""
    normalised: Float32 = (np.maximum(raw, raw.max() - np.float32(8.0)) + np.float32(4.0)) / 4
    return normalised


def features_of(log_mel: Float32, n_samples: int, audio: AudioSpec) -> Features:
    """Give each side its form of the same features [3000, n_mels], ending where the clip ends.

    The normalised form is made from the raw one again, so that both are the same to the last bit:
    the encoder magnifies a rounding of its input some hundred times at a few positions.
    """
    n_frames = min(audio.n_frames, n_samples // audio.hop_length)
    raw = (4.0 * log_mel - 4.0).astype(np.float32)
    normalised = _normalise(raw)
    normalised[n_frames:] = 0.0
    return Features(
        normalised=normalised,
        raw=raw[None],
        log_mel_max=raw.max(keepdims=True).reshape(1),
        n_frames=np.array([n_frames], dtype=np.int32),
    )


def _padding_stage(session: SessionLike, features: Features, bounds: Bounds) -> StageError:
    """Compare the features of a window whose audio ends halfway through the clip."""
    n_frames = int(features.n_frames[0]) // 2
    expected = features.normalised.copy()
    expected[n_frames:] = 0.0
    ours = session.trace(features.raw, features.log_mel_max, np.array([n_frames], dtype=np.int32))
    if "log_mel" not in ours:
        raise VerificationError("The compiled model does not show log_mel.")
    return compare("padding", ours["log_mel"][0], expected, bounds.features)


def _stage_values(
    session: SessionLike, theirs: dict[str, Float32], features: Features
) -> dict[str, Float32]:
    """The session's side of `rounding.stage_values`; it encodes into window 0."""
    traced = session.trace(features.raw, features.log_mel_max, features.n_frames)
    window = np.zeros(1, dtype=np.int32)
    session.encode(features.raw, features.log_mel_max, features.n_frames, window)
    pairs = session.cross_kv(window=0)
    n_layers = sum(name.endswith(".keys") for name in theirs)
    if len(pairs) != n_layers:
        raise VerificationError(
            f"The compiled model has cross-attention in {len(pairs)} decoder layers, "
            f"the checkpoint in {n_layers}."
        )
    found = {name: stage[0] for name, stage in traced.items()}
    for layer, (keys, values) in enumerate(pairs):
        found[f"cross_kv.layers.{layer}.keys"] = keys
        found[f"cross_kv.layers.{layer}.values"] = values
    missing = [name for name in theirs if name not in found]
    if missing:
        raise VerificationError(f"The compiled model does not show {', '.join(missing)}.")
    return found


def _encoder_stages(
    ours: dict[str, Float32],
    theirs: dict[str, Float32],
    bounds: Bounds,
    ask_leeways: Callable[[], dict[str, Float64]],
) -> list[StageError]:
    """Compare every stage of the encoder, and of keys and values the worse ones.

    Only where one is beyond a bound for largest errors the reference is asked for leeways.
    """

    def compared(leeway: Mapping[str, Float64]) -> list[StageError]:
        return [
            compare(
                name,
                ours[name],
                value,
                bounds.layers if name.startswith(LAYERS) else bounds.encoder,
                rms=bounds.rms,
                leeway=leeway.get(name),
            )
            for name, value in theirs.items()
        ]

    errors = compared({})
    if not (bounds.rms or all(error.ok for error in errors)):
        errors = compared(ask_leeways())
    stages: dict[str, list[StageError]] = {}
    for error in errors:
        stage = error.name.removesuffix(".keys").removesuffix(".values")
        stages.setdefault(stage, []).append(error)
    return [worst_of(stage, same) for stage, same in stages.items()]


def _logit_stages(
    session: SessionLike,
    reference: Reference,
    encoder_out: Float32,
    decoding: Decoding,
    bounds: Bounds,
) -> list[StageError]:
    """Compare the logits of the prompt and of N_STEPS sampled tokens (repeated if fewer)."""
    sampled = (decoding.sampled * N_STEPS)[:N_STEPS]
    tokens = decoding.prompt + sampled
    ours, theirs = session.logits(tokens, window=0), reference.logits(encoder_out, tokens)
    if ours.shape != theirs.shape:
        return [compare("prefill logits", ours, theirs, bounds.logits)]
    n = len(decoding.prompt)
    return [
        compare("prefill logits", ours[:n], theirs[:n], bounds.logits),
        compare("step logits", ours[n:], theirs[n:], bounds.logits),
    ]
