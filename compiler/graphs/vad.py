"""`vad`: frames of samples -> how likely each holds speech, by Silero VAD 6.2 at 16 kHz.

A frame is 512 samples, 32 ms, after the 64 before them. Its spectrum has four columns of 256
samples, the last of which is filled up by reflection; four convolutions make one vector of the
columns; an LSTM of 128 units carries on from frame to frame (snakers4/silero-vad,
`src/silero_vad/data/silero_vad.onnx`; the weights' order is compiler/vad_weights.py's).

A call takes frames of several files: of each a sequence, with a state of its own.
"""

from max.dtype import DType
from max.graph import Dim, TensorType, TensorValue, Value, ops

from mwc.compiler.graphs.scope import Plan, Scope, custom
from mwc.runtime.decoder import VAD_CONTEXT, VAD_FRAME, VAD_STATE_SHAPE
from mwc.runtime.spec import TensorSpec

GATES = 512
"""Gates of the LSTM: 4 for each unit."""

ENCODER_WEIGHTS = (
    *(f"conv{i}.{part}" for i in range(1, 5) for part in ("weight", "bias")),
    "lstm.input",
    "lstm.bias",
)
LSTM_WEIGHTS = ("lstm.recurrent", "output.weight", "output.bias")
ON_CPU = ("factors", *ENCODER_WEIGHTS, *LSTM_WEIGHTS)
"""Weights of `speech`, in its order."""
ON_GPU = ("spectrum", *ENCODER_WEIGHTS)
"""Weights of `speech_gates`, in its order."""


def inputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """What is heard, and how it is shared out.

    samples float32 [frames, 576], 16 kHz, in [-1, 1]: one sequence after the other, each in order
    of time; state float32 [sequences, 2, 128]; counts int32 [sequences], the frames of each.
    """
    return (
        TensorSpec("samples", "float32", ("frames", VAD_CONTEXT + VAD_FRAME)),
        TensorSpec("state", "float32", ("sequences", *VAD_STATE_SHAPE)),
        TensorSpec("counts", "int32", ("sequences",)),
    )


def outputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """probabilities float32 [frames]; the state after a sequence's last, [sequences, 2, 128]."""
    return (
        TensorSpec("probabilities", "float32", ("frames",)),
        TensorSpec("state", "float32", ("sequences", *VAD_STATE_SHAPE)),
    )


def build(scope: Scope, values: dict[str, Value]) -> list[TensorValue]:
    """The gates of all frames, and the LSTM frame after frame: on CPUs close behind them."""
    given = [values[name].tensor for name in ("samples", "state", "counts")]
    if not scope.plan.on_gpu:
        return list(speech(scope.plan, *given, *scope.layer_weights("vad", ON_CPU)))
    samples, state, counts = given
    gates = speech_gates(scope.plan, samples, *scope.layer_weights("vad", ON_GPU))
    return list(lstm(scope.plan, gates, state, counts, *scope.layer_weights("vad", LSTM_WEIGHTS)))


def speech(
    plan: Plan, samples: TensorValue, state: TensorValue, counts: TensorValue, *weights: TensorValue
) -> tuple[TensorValue, TensorValue]:
    """All of it on CPUs: probabilities [frames] and sequences' states after them, with ON_CPU."""
    frames = samples.shape[0]
    return _heard("mwc_speech", plan, frames, [samples, state, counts, *weights])


def speech_gates(plan: Plan, samples: TensorValue, *weights: TensorValue) -> TensorValue:
    """What the LSTM adds to its own state: [frames, 576] and ON_GPU -> [frames, 512]."""
    kind = TensorType(DType.float32, [samples.shape[0], GATES], plan.device)
    return custom("mwc_gpu_speech_gates", plan, [samples, *weights], kind)


def lstm(
    plan: Plan, gates: TensorValue, state: TensorValue, counts: TensorValue, *weights: TensorValue
) -> tuple[TensorValue, TensorValue]:
    """Probabilities [frames] of gates [frames, 512], and sequences' states after them.

    Also given: state [sequences, 2, 128], counts int32 [sequences], and LSTM_WEIGHTS.
    """
    return _heard("mwc_gpu_lstm", plan, gates.shape[0], [gates, state, counts, *weights])


def _heard(
    name: str, plan: Plan, frames: Dim, given: list[TensorValue]
) -> tuple[TensorValue, TensorValue]:
    """What a kernel makes of frames, sequences' states and so on: probabilities and new states."""
    kinds = [
        TensorType(DType.float32, [frames], plan.device),
        TensorType(DType.float32, given[1].shape, plan.device),
    ]
    probabilities, state = ops.custom(name, plan.device, given, kinds)
    return probabilities.tensor, state.tensor
