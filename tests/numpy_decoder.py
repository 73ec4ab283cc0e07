"""The text decoder over an artifact's own weights, written out in numpy with float64."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mwc.runtime.artifact import Artifact, map_weights

Array = npt.NDArray[Any]


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class NumpyDecoder:
    """Teacher-forced passes over one window's cross-attention keys and values.

    `cross_kv` is what `Session.cross_kv` returns: per layer keys and values [heads, 1500, 64].
    """

    def __init__(self, artifact: Artifact, cross_kv: list[tuple[Array, Array]]) -> None:
        self._weights = map_weights(artifact, "f32")
        self._spec = artifact.manifest.spec
        self._cross_kv = cross_kv

    def run(self, tokens: list[int]) -> tuple[Array, Array]:
        """Scores of the alignment heads [heads, tokens, 1500] and logits [tokens, n_vocab]."""
        w, model = self._weights, self._spec.model
        embedding = w["decoder.embed_tokens.weight"].astype(np.float64)
        x = embedding[tokens] + w["decoder.embed_positions.weight"][: len(tokens)]
        causal = np.where(np.tri(len(tokens), dtype=bool), 0.0, -np.inf)
        by_layer = []
        for i in range(model.n_text_layer):
            layer = f"decoder.layers.{i}"
            qkv = self._linear(f"{layer}.self_attn.qkv", self._norm(layer, "self_attn", x))
            q, k, v = (self._heads(part) for part in np.split(qkv, 3, axis=-1))
            mixed = softmax(q @ k.swapaxes(1, 2) + causal) @ v
            x = x + self._linear(f"{layer}.self_attn.out_proj", self._joined(mixed))
            normed = self._norm(layer, "encoder_attn", x)
            q = self._heads(self._linear(f"{layer}.encoder_attn.q_proj", normed))
            keys, values = self._cross_kv[i]
            scores = q @ keys.swapaxes(1, 2)
            by_layer.append(scores)
            mixed = self._joined(softmax(scores) @ values)
            x = x + self._linear(f"{layer}.encoder_attn.out_proj", mixed)
            hidden = self._linear(f"{layer}.fc1", self._norm(layer, "final", x))
            hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
            x = x + self._linear(f"{layer}.fc2", hidden)
        wanted = self._spec.tokens.alignment_heads
        scores = np.stack([by_layer[layer][head] for layer, head in wanted])
        return scores, self._layer_norm("decoder.layer_norm", x) @ embedding.T

    def _linear(self, name: str, x: Array) -> Array:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, layer: str, part: str, x: Array) -> Array:
        return self._layer_norm(f"{layer}.{part}_layer_norm", x)

    def _layer_norm(self, name: str, x: Array) -> Array:
        normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return normed * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]

    def _heads(self, x: Array) -> Array:
        """[tokens, state] -> [heads, tokens, 64]."""
        return x.reshape(len(x), -1, 64).swapaxes(0, 1)

    def _joined(self, x: Array) -> Array:
        return x.swapaxes(0, 1).reshape(x.shape[1], -1)
