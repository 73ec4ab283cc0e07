"""The layers over int8 weights, on CPUs: several of `layers.py` in one kernel."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from max.dtype import DType
from max.graph import BufferValue, Dim, TensorType, TensorValue, ops

from mwc.compiler.graphs.scope import LayerWeights, Linear, Matrix, Norm, Plan, custom
from mwc.compiler.quantize import BLOCK_COLUMNS, BLOCK_TERMS
from mwc.runtime.decoder import AUDIO_KEY_BYTES_SHAPE

HEAD = 64
"""Width of an attention head, in every Whisper model."""
DECODER_LAYER_PARTS = (
    ("self_attn_layer_norm", "self_attn.qkv", "self_attn.out_proj"),
    ("encoder_attn_layer_norm", "encoder_attn.q_proj", "encoder_attn.out_proj"),
    ("final_layer_norm", "fc1", "fc2"),
)
"""A decoder layer's parts: a norm, the linear layer behind it, the one that closes the part."""


def linear(
    plan: Plan,
    x: TensorValue,
    weight: Matrix,
    bias: TensorValue,
    gelu: bool,
    residual: TensorValue | None,
    norm: Norm | None,
) -> TensorValue:
    """act(norm(x) @ weight.T + bias) for many rows, or x @ weight.T + bias + residual."""
    output = TensorType(DType.float32, [*x.shape[:2], weight.n_out], plan.device)
    layer = [*weight.parts(), bias]
    if residual is not None:
        assert norm is None
        name = f"mwc_matmul_residual{_width(weight)}_int8"
        return custom(name, plan, [x, *layer, residual], output)
    if norm is not None:
        inputs = [x, *norm, *layer]
        return custom("mwc_norm_matmul_bias_int8", plan, inputs, output, activation=int(gelu))
    return custom("mwc_matmul_bias_int8", plan, [x, *layer], output, activation=int(gelu))


def _width(weight: Matrix) -> str:
    """The kernel's part of a product: of 16 bits where the weights have rests."""
    return "" if weight.rest is None else "_wide"


def head_bytes(time: int) -> int:
    """Bytes in which kernels/head_bytes.mojo stores a head of so many positions."""
    padded = -(-time // 64) * 64
    queries, keys = padded * (HEAD + 8), padded // 16 * AUDIO_KEY_BYTES_SHAPE[-1]
    return queries + keys + padded * HEAD + 8 * HEAD


def norm_heads(
    plan: Plan, x: TensorValue, norm: Norm, weight: Matrix, bias: TensorValue
) -> TensorValue:
    """The heads of norm(x) @ weight.T + bias as bytes: [b, t, state] -> [b, heads, bytes].

    `weight` and `bias` make queries, keys and values, one after the other. There is room for
    n_audio_ctx positions, which t is at most.
    """
    shape = [x.shape[0], plan.model.n_audio_head, head_bytes(plan.model.n_audio_ctx)]
    output = TensorType(DType.uint8, shape, plan.device)
    inputs = [x, *norm, *weight.parts(), bias]
    return custom(f"mwc_norm_heads{_width(weight)}_int8", plan, inputs, output)


def encoder_attention(plan: Plan, heads: TensorValue, time: Dim) -> TensorValue:
    """Full self-attention [b, time, state] of what `norm_heads` made of so many positions.

    Queries are already scaled: weight_rules.py folds 64^-0.5 into them.
    """
    shape = [heads.shape[0], time, plan.model.n_audio_state]
    output = TensorType(DType.float32, shape, plan.device)
    return custom("mwc_encoder_attention_int8", plan, [heads], output)


def store_cross_kv(
    plan: Plan,
    caches: tuple[BufferValue, BufferValue],
    x: TensorValue,
    weight: Matrix,
    bias: TensorValue,
    windows: TensorValue,
    layer: TensorValue,
) -> None:
    """Put one layer's keys and values of x [b, n_audio_ctx, state] into the windows' slots."""
    inputs = [*caches, x, *weight.parts(), bias, windows, layer]
    ops.inplace_custom("mwc_cross_kv_int8", plan.device, inputs)


def feed_forward(
    plan: Plan, x: TensorValue, norm: Norm, first: Linear, second: Linear
) -> TensorValue:
    """x + second(GELU(first(norm(x)))) for many rows: [b, t, state] -> [b, t, state]."""
    parts = [*first[0].parts(), first[1], *second[0].parts(), second[1]]
    output = TensorType(DType.float32, x.shape, plan.device)
    return custom("mwc_feed_forward_int8", plan, [x, *norm, *parts], output)


def embedding_parts(plan: Plan, embedding: Matrix) -> list[TensorValue]:
    """A token embedding as its kernels take it; where it has no rests there are none of them."""
    if embedding.rest is not None:
        return embedding.parts()
    none = ops.constant(np.zeros((0, 0, BLOCK_COLUMNS, BLOCK_TERMS), np.int8), device=plan.device)
    return [*embedding.parts(), none]


class Head(NamedTuple):
    """What logits are made with: the last norm, the token embedding, what its sieve leaves out."""

    norm: Norm
    embedding: Matrix
    bounds: TensorValue


def _head_parts(plan: Plan, head: Head) -> list[TensorValue]:
    """A head as its kernels take it."""
    return [*head.norm, *embedding_parts(plan, head.embedding), head.bounds]


def norm_choose(
    plan: Plan,
    x: TensorValue,
    head: Head,
    wanted: TensorValue,
    rules: Sequence[TensorValue],
    ids: TensorValue,
    ranks: TensorValue,
) -> tuple[TensorValue, TensorValue]:
    """`layers.choose` of `layers.norm_logits`, which are not written: int32 and float32 [n, k].

    Of each row's candidates the best `wanted` [n] are those of the whole product; the head's bounds
    [3] say how far off a sieved logit is (`quantize.sieve_bounds`). `rules`: suppress, rule states,
    temperatures and uniforms; `ids`: eot and the first timestamp; k is the length of `ranks`. See
    kernels/likely_choice.mojo.
    """
    shape = [x.shape[0], ranks.shape[0]]
    kinds = [TensorType(dtype, shape, plan.device) for dtype in (DType.int32, DType.float32)]
    inputs = [x, *_head_parts(plan, head), wanted, *rules, ids]
    chosen = ops.custom("mwc_norm_choose_int8", plan.device, inputs, kinds)
    return chosen[0].tensor, chosen[1].tensor


def decoder_layers(
    plan: Plan,
    caches: tuple[BufferValue, BufferValue, BufferValue, BufferValue],
    x: TensorValue,
    tokens: tuple[TensorValue, TensorValue, TensorValue],
    which: TensorValue,
    n_layers: int,
    weights: LayerWeights,
) -> tuple[TensorValue, TensorValue]:
    """Decoder layers with int8 weights: x [n, s] -> x and cross-attention queries [n_layers, n, s].

    `caches` are self_k, self_v, cross_k, cross_v; `tokens` rows, positions and windows; `which`
    int32 [2] the first layer that runs and the one after the last of these `n_layers`; `weights`
    those of all layers, stacked.
    """
    kinds = [
        TensorType(DType.float32, shape, plan.device) for shape in (x.shape, [n_layers, *x.shape])
    ]
    results = ops.inplace_custom(
        "mwc_decoder_layers_int8",
        plan.device,
        [*caches, x, *tokens, which, *_layer_parts(weights)],
        kinds,
        parameters={"length": plan.model.n_audio_ctx},
    )
    return results[0].tensor, results[1].tensor


def _layer_parts(weights: LayerWeights) -> list[TensorValue]:
    """The weights of decoder layers in the order of their use."""
    parts: list[TensorValue] = []
    for norm, *linears in DECODER_LAYER_PARTS:
        parts += weights.norm(norm)
        for name in linears:
            matrix, bias = weights.linear(name)
            parts += [*matrix.parts(), bias]
    return parts


def steps(
    plan: Plan,
    caches: tuple[BufferValue, BufferValue, BufferValue, BufferValue],
    tokens: tuple[TensorValue, TensorValue, TensorValue, TensorValue],
    which: TensorValue,
    table: TensorValue,
    head: Head,
    rules: Sequence[TensorValue],
    weights: LayerWeights,
    n_steps: int,
    *,
    until_all_end: bool,
) -> tuple[TensorValue, TensorValue, TensorValue]:
    """Up to `n_steps` steps: chosen and log-probabilities [n, n_steps], and how many it took [1].

    They end after one in which a row ended, or all, `until_all_end`. `tokens`: these, their rows,
    positions and windows; `which` int32 [2]: 0 and how many layers there are; `table`: of
    positions; `rules`: wanted, suppress, rule states, temperatures, uniforms, and eot with the
    first timestamp. See kernels/steps_int8.mojo.
    """
    shape = [tokens[0].shape[0], n_steps]
    kinds = [
        TensorType(DType.int32, shape, plan.device),
        TensorType(DType.float32, shape, plan.device),
        TensorType(DType.int32, [1], plan.device),
    ]
    results = ops.inplace_custom(
        "mwc_steps_int8",
        plan.device,
        [*caches, *tokens, which, table, *_head_parts(plan, head), *rules, *_layer_parts(weights)],
        kinds,
        parameters={"length": plan.model.n_audio_ctx, "until_all_end": until_all_end},
    )
    return results[0].tensor, results[1].tensor, results[2].tensor
