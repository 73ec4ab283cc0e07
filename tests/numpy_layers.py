"""Layers in numpy and float64, as oracles of the kernels; random inputs for them."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def gelu(x: Array) -> Array:
    return x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def side_by_side(x: Array, stride: int) -> Array:
    """The frames under a convolution's three taps: [b, t, d] -> [b, t / stride, 3 * d]."""
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
    return np.concatenate([padded[:, i : i + x.shape[1] : stride] for i in range(3)], axis=-1)


def frames_of_audio(n_frames: Array, t: int, d: int, stride: int) -> Array:
    """What a convolution of this stride is given of windows with `n_frames`: float32 [b, t, d].

    The first one zeros past the audio, the second one frames that are alike from one further on.
    """
    x = normal(len(n_frames), t, d)
    for window, held in zip(x, n_frames, strict=True):
        window[held + stride - 1 :] = 0 if stride == 1 else normal(d, seed=4)
    return x


def layer_norm(x: Array, gamma: Array, beta: Array) -> Array:
    x = x.astype(np.float64)
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def attention(q: Array, k: Array, v: Array) -> Array:
    """Softmax(q kᵀ) v in float64 over [..., time, 64]; queries are already scaled."""
    scores = q.astype(np.float64) @ np.swapaxes(k, -1, -2)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v
