"""`log_mel`: pieces of samples -> raw log10-mel frames: one kernel on CPUs, matmuls on GPUs.

A piece is 160240 samples: frame t of its 1000 frames reads samples [160 t, 160 t + 400). The
result is log10(max(mel, 1e-10)), before the clamp to the maximum and the scaling, which need the
whole file (openai/whisper audio.py, `log_mel_spectrogram`).
"""

import math

from max.dtype import DType
from max.graph import TensorType, TensorValue, Value, ops

from mwc.compiler.graphs import layers
from mwc.compiler.graphs.scope import Matrix, Plan, Scope, custom
from mwc.runtime.decoder import PIECE_FRAMES, PIECE_SAMPLES
from mwc.runtime.spec import TensorSpec, exact_div

BLOCK = 80
"""Samples per block: half a hop (160), a fifth of a frame (400)."""

MEL_FLOOR = 1e-10
"""Smallest mel power before the logarithm (openai/whisper audio.py, `clamp(min=1e-10)`)."""


def inputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """samples float32 [pieces, 160240], 16 kHz, in [-1, 1]."""
    return (TensorSpec("samples", "float32", ("pieces", PIECE_SAMPLES)),)


def outputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """log_mel float32 [pieces, 1000, n_mels]."""
    return (TensorSpec("log_mel", "float32", ("pieces", PIECE_FRAMES, plan.model.n_mels)),)


def build(scope: Scope, values: dict[str, Value]) -> list[TensorValue]:
    """Frames, DFT, power, mel filters, logarithm."""
    samples = values["samples"].tensor
    if scope.plan.on_gpu:
        return [_as_matmuls(scope, samples)]
    factors, bands = scope.layer_weights("log_mel", ("factors", "bands"))
    return [log_mel(scope.plan, samples, factors, bands, frames=PIECE_FRAMES)]


def log_mel(
    plan: Plan, samples: TensorValue, factors: TensorValue, bands: TensorValue, *, frames: int
) -> TensorValue:
    """The log10-mel [b, frames, n_mels] of samples [b, any], on CPUs.

    `factors` are `spectrum_factors`, `bands` `mel_bands`: compiler/spectrum.py and compiler/mel.py.
    """
    shape = [samples.shape[0], frames, plan.model.n_mels]
    output = TensorType(DType.float32, shape, plan.device)
    return custom("mwc_log_mel", plan, [samples, factors, bands], output, hop=2 * BLOCK)


def _as_matmuls(scope: Scope, samples: TensorValue) -> TensorValue:
    real, imaginary = _spectrum(scope, samples)
    power = real * real + imaginary * imaginary
    mel = layers.linear(scope.plan, power, Matrix(scope.weight("log_mel.filters")))
    floored = ops.max(mel, scope.constant(MEL_FLOOR, DType.float32))
    return ops.log(floored) * scope.constant(1.0 / math.log(10.0), DType.float32)


def _spectrum(scope: Scope, samples: TensorValue) -> tuple[TensorValue, TensorValue]:
    """Real and imaginary parts [pieces, 1000, 201] of each frame.

    Seen in blocks of 80 samples, frame t is blocks 2t to 2t + 4.
    """
    pieces = samples.shape[0]
    blocks = ops.reshape(samples, [pieces, exact_div(PIECE_SAMPLES, BLOCK), BLOCK])
    last = 2 * PIECE_FRAMES - 1
    frames = ops.concat(
        [
            ops.slice_tensor(blocks, [slice(None), slice(first, first + last, 2), slice(None)])
            for first in range(5)
        ],
        axis=-1,
    )
    spectrum = layers.linear(scope.plan, frames, Matrix(scope.weight("log_mel.dft")))
    bins = exact_div(int(spectrum.shape[-1]), 2)
    real, imaginary = ops.split(spectrum, [bins, bins], -1)
    return real, imaginary
