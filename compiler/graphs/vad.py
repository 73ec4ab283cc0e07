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

ENCODER_WEIGHTS = (
    "spectrum",
    *(f"conv{i}.{part}" for i in range(1, 5) for part in ("weight", "bias")),
    "lstm.input",
    "lstm.bias",
)
LSTM_WEIGHTS = ("lstm.recurrent", "output.weight", "output.bias")


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
    gates = speech_gates(scope.plan, samples, *scope.layer_weights("vad", ENCODER_WEIGHTS))
    return list(lstm(scope.plan, gates, state, *scope.layer_weights("vad", LSTM_WEIGHTS)))


def speech_gates(plan: Plan, samples: TensorValue, *weights: TensorValue) -> TensorValue:
    """What the LSTM adds to its own state: [frames, 576] and ENCODER_WEIGHTS -> [frames, 512]."""
    if plan.on_gpu:
        return _gates_by_max(plan, samples, *weights)
    kind = TensorType(DType.float32, [samples.shape[0], GATES], plan.device)
    return ops.custom("mwc_speech_gates", plan.device, [samples, *weights], [kind])[0].tensor


def lstm(
    plan: Plan, gates: TensorValue, state: TensorValue, *weights: TensorValue
) -> tuple[TensorValue, TensorValue]:
    """Probabilities [frames] of gates [frames, 512], and the state after them; LSTM_WEIGHTS."""
    kinds = [
        TensorType(DType.float32, [gates.shape[0]], plan.device),
        TensorType(DType.float32, state.shape, plan.device),
    ]
    results = ops.custom("mwc_lstm", plan.device, [gates, state, *weights], kinds)
    return results[0].tensor, results[1].tensor


def _gates_by_max(plan: Plan, samples: TensorValue, *weights: TensorValue) -> TensorValue:
    """The same by MAX's own ops as kernels/vad.mojo on a CPU."""
    spectrum, w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = weights
    frames, length = samples.shape
    places = HOP * np.arange(COLUMNS)[:, None] + np.arange(FFT)
    last = int(length) - 1
    reflected = np.where(places > last, 2 * last - places, places).reshape(-1)
    indices = ops.constant(reflected.astype(np.int32), DType.int32, plan.device)
    columns = ops.reshape(ops.gather(samples, indices, axis=1), [frames, COLUMNS, FFT])
    parts = columns @ _matrix(spectrum)
    panels = int(spectrum.shape[0])
    halves = ops.reshape(parts * parts, [frames, COLUMNS, panels, 2, 16])
    power = ops.reshape(ops.sum(halves, axis=3), [frames, COLUMNS, 16 * panels])
    zeros = ops.slice_tensor(power, [slice(None), slice(0, 1), slice(None)]) * 0.0
    lines = ops.concat([zeros, ops.sqrt(power), zeros], axis=1)
    first = ops.relu(_taps(lines, COLUMNS, 1) @ _matrix(w1) + b1)
    zeros = ops.slice_tensor(first, [slice(None), slice(0, 1), slice(None)]) * 0.0
    second = _taps(ops.concat([zeros, first], axis=1), COLUMNS // 2, 2) @ _matrix(w2)
    second = ops.reshape(ops.relu(second + b2), [frames, w3.shape[1]])
    third = ops.relu(second @ _matrix(w3) + b3)
    fourth = ops.relu(third @ _matrix(w4) + b4)
    return fourth @ _matrix(w5) + b5


def _matrix(panels: TensorValue) -> TensorValue:
    """Panels [columns / 32, terms, 32] as a matrix [terms, columns]."""
    count, terms, width = panels.shape
    return ops.reshape(ops.permute(panels, [1, 0, 2]), [terms, int(count) * int(width)])


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
