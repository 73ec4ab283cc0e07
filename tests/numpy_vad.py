"""Silero VAD in numpy, straight from Silero's own tensors; and its ONNX file run by onnxruntime."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mwc.compiler.vad_weights import FILE, PACKAGE, installed_detector
from mwc.runtime.vad import Vad

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Float64 = npt.NDArray[np.float64]


def frames_of(samples: Float32) -> Float32:
    """float32 [frames, 576]: every 512 samples after the 64 before them; zeros outside."""
    count = -(-len(samples) // 512)
    padded = np.zeros(64 + 512 * count, np.float32)
    padded[64 : 64 + len(samples)] = samples
    return np.stack([padded[512 * i : 512 * i + 576] for i in range(count)])


def sigmoid(x: Float64) -> Float64:
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))


def convolution(x: Float64, weight: Float64, bias: Float64, stride: int) -> Float64:
    """relu(conv1d(x, weight, bias, stride, padding=1)) of x [frames, channels, time]."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    taps = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=2)[:, :, ::stride]
    return np.maximum(np.einsum("fctk,ock->fot", taps, weight) + bias[:, None], 0)


def alone(vad: Callable[[Float32, Float32, Int32], tuple[Float32, Float32]]) -> Vad:
    """What `Decoder.vad` gives for a sequence by itself: of samples and a state [2, 128]."""

    def run(samples: Float32, state: Float32) -> tuple[Float32, Float32]:
        count = np.array([len(samples)], np.int32)
        probabilities, states = vad(samples, state[None], count)
        return probabilities, states[0]

    return run


def numpy_vad(frames: Float32, state: Float32) -> tuple[Float64, Float64]:
    """Probabilities [frames] and the state after them [2, 128], in float64."""
    tensors = {name: a.astype(np.float64) for name, a in installed_detector().tensors.items()}
    x = np.pad(frames.astype(np.float64), ((0, 0), (0, 64)), mode="reflect")
    columns = np.lib.stride_tricks.sliding_window_view(x, 256, axis=1)[:, ::128]
    parts = np.einsum("ftn,bn->fbt", columns, tensors["stft.forward_basis_buffer"][:, 0])
    x = np.sqrt(parts[:, :129] ** 2 + parts[:, 129:] ** 2)
    for i, stride in enumerate((1, 2, 2, 1)):
        name = f"encoder.{i}.reparam_conv"
        x = convolution(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], stride)
    assert x.shape[1:] == (128, 1)
    hidden, cells = state.astype(np.float64)
    probabilities = []
    for vector in x[:, :, 0]:
        gates = tensors["decoder.rnn.weight_ih"] @ vector + tensors["decoder.rnn.bias_ih"]
        gates += tensors["decoder.rnn.weight_hh"] @ hidden + tensors["decoder.rnn.bias_hh"]
        i, f, g, o = np.split(gates, 4)
        cells = sigmoid(f) * cells + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cells)
        logit = tensors["decoder.decoder.2.weight"][0, :, 0] @ np.maximum(hidden, 0)
        probabilities.append(sigmoid(logit + tensors["decoder.decoder.2.bias"][0]))
    return np.array(probabilities), np.stack([hidden, cells])


def onnx_vad(samples: Float32) -> Float32:
    """Probabilities of a whole file by onnxruntime and the package's own file."""
    from importlib.metadata import distribution

    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    path = str(distribution(PACKAGE).locate_file(FILE))
    session: Any = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    state, rate = np.zeros((2, 1, 128), np.float32), np.array(16000, np.int64)
    probabilities = []
    for frame in frames_of(samples):
        inputs = {"input": frame[None], "state": state, "sr": rate}
        probability, state = session.run(None, inputs)
        probabilities.append(probability[0, 0])
    return np.array(probabilities, np.float32)
