"""`vad`: frames of samples -> how likely each holds speech, by Silero VAD 6.2 at 16 kHz.

A frame is 512 samples, 32 ms, after the 64 before them. Its spectrum has four columns of 256
samples, the last of which is filled up by reflection; four convolutions make one vector of the
columns; an LSTM of 128 units carries on from frame to frame (snakers4/silero-vad,
`src/silero_vad/data/silero_vad.onnx`; the weights' order is compiler/vad_weights.py's).
"""

import numpy as np
from max.dtype import DType
from max.graph import TensorType, TensorValue, Value, ops

from mwc.compiler.graphs.scope import Plan, Scope
from mwc.runtime.decoder import VAD_CONTEXT, VAD_FRAME, VAD_STATE_SHAPE
from mwc.runtime.spec import TensorSpec

COLUMNS, HOP, FFT = 4, 128, 256
"""Columns of one frame's spectrum, samples between them, samples in each."""

GATES = 512
"""Gates of the LSTM: 4 for each unit."""

_ENCODER_WEIGHTS = (
    "spectrum",
    *(f"conv{i}.{part}" for i in range(1, 5) for part in ("weight", "bias")),
    "lstm.input",
    "lstm.bias",
)


def inputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """samples float32 [frames, 576], 16 kHz, in [-1, 1], in order of time; state [2, 128]."""
    return (
        TensorSpec("samples", "float32", ("frames", VAD_CONTEXT + VAD_FRAME)),
        TensorSpec("state", "float32", VAD_STATE_SHAPE),
    )


def outputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """probabilities float32 [frames]; the state after the last frame, float32 [2, 128]."""
    return (
        TensorSpec("probabilities", "float32", ("frames",)),
        TensorSpec("state", "float32", VAD_STATE_SHAPE),
    )


def build(scope: Scope, values: dict[str, Value]) -> list[TensorValue]:
    """The gates of all frames at once, then the LSTM frame after frame."""
    samples, state = values["samples"].tensor, values["state"].tensor
    encoder = scope.layer_weights("vad", _ENCODER_WEIGHTS)
    frames, device = samples.shape[0], scope.plan.device
    if scope.plan.on_gpu:
        gates = _gates(scope, samples, encoder)
    else:
        kind = TensorType(DType.float32, [frames, GATES], device)
        gates = ops.custom("mwc_speech_gates", device, [samples, *encoder], [kind])[0].tensor
    rest = scope.layer_weights("vad", ("lstm.recurrent", "output.weight", "output.bias"))
    kinds = [
        TensorType(DType.float32, [frames], device),
        TensorType(DType.float32, VAD_STATE_SHAPE, device),
    ]
    return [value.tensor for value in ops.custom("mwc_lstm", device, [gates, state, *rest], kinds)]


def _gates(scope: Scope, samples: TensorValue, weights: list[TensorValue]) -> TensorValue:
    """float32 [frames, 512] by MAX's own ops; kernels/vad.mojo does the same on a CPU."""
    spectrum, w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = weights
    frames = samples.shape[0]
    starts = HOP * np.arange(COLUMNS)[:, None] + np.arange(FFT)
    last = int(samples.shape[1]) - 1
    reflected = np.where(starts > last, 2 * last - starts, starts)
    columns = ops.gather(samples, scope.constant_ids(reflected.reshape(-1).tolist()), axis=1)
    parts = ops.reshape(columns, [frames, COLUMNS, FFT]) @ _matrix(spectrum)
    bins = int(spectrum.shape[0]) * 16
    halves = ops.reshape(parts * parts, [frames, COLUMNS, bins // 16, 2, 16])
    power = ops.squeeze(ops.sum(halves, axis=3), 3)
    lines = _pad(scope, ops.reshape(ops.sqrt(power), [frames, COLUMNS, bins]), after=True)
    first = ops.relu(_taps(lines, COLUMNS, 1) @ _matrix(w1) + b1)
    second = ops.relu(_taps(_pad(scope, first), COLUMNS // 2, 2) @ _matrix(w2) + b2)
    third = ops.relu(ops.reshape(second, [frames, w3.shape[1]]) @ _matrix(w3) + b3)
    fourth = ops.relu(third @ _matrix(w4) + b4)
    return fourth @ _matrix(w5) + b5


def _matrix(panels: TensorValue) -> TensorValue:
    """Panels [columns / 32, terms, 32] as a matrix [terms, columns]."""
    count, terms, width = panels.shape
    return ops.reshape(ops.permute(panels, [1, 0, 2]), [terms, int(count) * int(width)])


def _pad(scope: Scope, x: TensorValue, *, after: bool = False) -> TensorValue:
    """A column of zeros before those of x [frames, columns, channels], and one after."""
    zeros = ops.slice_tensor(x, [slice(None), slice(0, 1), slice(None)])
    zeros = zeros * scope.constant(0.0, DType.float32)
    return ops.concat([zeros, x, zeros] if after else [zeros, x], axis=1)


def _taps(x: TensorValue, count: int, stride: int) -> TensorValue:
    """What each of `count` outputs of a convolution sees: three columns of x side by side."""
    last = stride * (count - 1) + 1
    return ops.concat(
        [
            ops.slice_tensor(x, [slice(None), slice(tap, tap + last, stride), slice(None)])
            for tap in range(3)
        ],
        axis=-1,
    )
