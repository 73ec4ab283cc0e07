"""The kernels of the decoder, at a model's sizes and for a number of rows."""

from typing import Any

import numpy as np
from case_graphs import Cases
from max.driver import CPU, Buffer

from mwc.compiler.graphs import layers, layers_int8
from mwc.compiler.graphs.scope import DTYPES, LayerWeights, Matrix, Plan
from mwc.compiler.quantize import (
    LONG_GROUP,
    pack_halves,
    pack_int8,
    quantize_with_rests,
    sieve_bounds,
)
from mwc.compiler.weights import AUDIO_CACHES, CACHES
from mwc.runtime.decoder import (
    AUDIO_KEY_BYTES_SHAPE,
    AUDIO_KEY_SHAPE,
    AUDIO_VALUE_BYTES_SHAPE,
    AUDIO_VALUE_SHAPE,
    RULE_STATE_SIZE,
    TEXT_KEY_SHAPE,
    TEXT_VALUE_SHAPE,
)
from mwc.runtime.rules import rule_state

POSITION = 200
PEAK = 2.0
"""How near a token's weights the LM head's inputs are, in their own scale: a likely token."""


def add_decoder(cases: Cases, rows: int) -> None:
    """The decoder's kernels, for a number of rows."""
    model = cases.model
    d, mlp = model.n_text_state, model.n_text_mlp
    _few(cases, f"qkv, {rows} rows", rows, d, 3 * d, norm=True)
    _few(cases, f"fc1, {rows} rows", rows, d, mlp, norm=True, gelu=True)
    _few(cases, f"fc2, {rows} rows", rows, mlp, d)
    _logits(cases, f"LM head, {rows} rows", rows, d, model.n_vocab)
    if cases.precision == "int8":
        _head_and_choice(cases, f"LM head and choice, {rows} rows", rows, d, model.n_vocab)
    _attention(cases, rows)
    _around_attention(cases, rows)
    if cases.plan.int8:
        _decoder_layer(cases, f"decoder layer, {rows} rows", rows)


def _attention(cases: Cases, rows: int) -> None:
    """A token of each row attends to its window, and to POSITION tokens before it."""
    d = cases.model.n_text_state
    slots, layer = np.arange(rows, dtype=np.int32), np.zeros(1, np.int32)
    audio, text = _audio_caches(cases, rows), _text_caches(cases, rows)
    cases.add(
        f"cross_attention, {rows} rows",
        lambda plan, k, v, *rest: layers.cross_attention(plan, (k, v), *rest),
        [*audio, cases.values(rows, d), slots, layer],
        4.0 * rows * cases.model.n_audio_ctx * d, _bytes(*audio), "f32",
    )  # fmt: skip
    cases.add(
        f"self_attention, {rows} rows",
        lambda plan, k, v, *rest: layers.self_attention(plan, (k, v), *rest),
        [*text, cases.values(rows, 3 * d), slots, _positions(cases, rows), layer],
        4.0 * rows * (POSITION + 1) * d, _bytes(*text) * _text_share(cases), "f32",
    )  # fmt: skip


def _around_attention(cases: Cases, rows: int) -> None:
    """What fills and copies caches, scores words, and chooses among logits."""
    model = cases.model
    d, layer = model.n_text_state, np.zeros(1, np.int32)
    audio, text = _audio_caches(cases, 1), _text_caches(cases, 2 * rows)
    slots = np.arange(2 * rows, dtype=np.int32)

    def store(plan: Plan, k: Any, v: Any, *rest: Any) -> Any:
        layers.store_cross_kv(plan, (k, v), *rest)
        return rest[-1]

    def copy(plan: Plan, k: Any, v: Any, *rest: Any) -> Any:
        layers.copy_rows(plan, (k, v), *rest)
        return rest[-1]

    def make(plan: Plan, k: Any, v: Any, x: Any, w: Any, s: Any, gs: Any, *rest: Any) -> Any:
        layers_int8.store_cross_kv(plan, (k, v), x, Matrix(w, s, gs), *rest)
        return rest[-1]

    if rows == 1 and cases.plan.int8:
        x, matrix = cases.values(1, model.n_audio_ctx, d), cases.matrix(2 * d, d, LONG_GROUP)
        cases.add(
            "cross_kv, 1 window", make,
            [*audio, x, *matrix, cases.values(2 * d), layer, layer],
            4.0 * model.n_audio_ctx * d * d, 0, "int8",
        )  # fmt: skip
    elif rows == 1:
        kv = cases.values(1, model.n_audio_ctx, 2 * d)
        cases.add(
            "store cross_kv, 1 window", store, [*audio, kv, layer, layer], 0, kv.nbytes, "f32"
        )
    copies = [slots[:rows], slots[rows:], _positions(cases, rows)]
    share = _text_share(cases) / 2
    cases.add(f"copy_rows, {rows} rows", copy, [*text, *copies], 0, _bytes(*text) * share, "f32")
    heads, n = np.arange(model.n_text_head, dtype=np.int32), 8 * rows
    cases.add(
        f"alignment scores, {n} tokens", layers.alignment_scores,
        [audio[0], cases.values(n, d), np.zeros(n, np.int32), layer, heads],
        2.0 * n * model.n_audio_ctx * d, 0, "f32",
    )  # fmt: skip
    logits, suppress = cases.values(rows, model.n_vocab), np.zeros((2, model.n_vocab))
    state, drawn = np.ones((rows, RULE_STATE_SIZE), np.int32), np.zeros(rows, np.float32)
    cases.add(
        f"choose, {rows} rows", lambda plan, *given: layers.choose(plan, *given)[0],
        [logits, suppress.astype(np.float32), state, drawn, drawn, np.zeros(1, np.int32)],
        0, logits.nbytes, "f32",
    )  # fmt: skip


def _decoder_layer(cases: Cases, name: str, rows: int) -> None:
    """Norms, products and attention of a layer: one operation in int8."""
    model = cases.model
    d, mlp = model.n_text_state, model.n_text_mlp
    sizes = {"self_attn.qkv": (3 * d, d), "fc1": (mlp, d), "fc2": (d, mlp)}
    weights: dict[str, Any] = {}
    for norm, *linears in layers_int8.DECODER_LAYER_PARTS:
        weights |= {f"{norm}.weight": cases.values(d), f"{norm}.bias": cases.values(d)}
        for linear in linears:
            n, k = sizes.get(linear, (d, d))
            stored = cases.matrix(n, k)
            parts = dict(zip(("weight", "scale", "group_scale"), stored, strict=True))
            weights |= {f"{linear}.{part}": value for part, value in parts.items()}
            weights[f"{linear}.bias"] = cases.values(n)
    text, audio = _text_caches(cases, rows), _audio_caches(cases, rows)
    slots, layer = np.arange(rows, dtype=np.int32), np.zeros(1, np.int32)

    def build(plan: Plan, sk: Any, sv: Any, ck: Any, cv: Any, x: Any, *rest: Any) -> Any:
        given = LayerWeights(tuple(weights), rest[4:])
        return layers_int8.decoder_layer(plan, (sk, sv, ck, cv), x, rest[:4], given)[0]

    tokens = [slots, _positions(cases, rows), slots, layer]
    inputs = [*text, *audio, cases.values(rows, d), *tokens, *weights.values()]
    read = float(sum(value.nbytes for value in weights.values()))
    read += _bytes(*text) * _text_share(cases) + _bytes(*audio)
    cases.add(name, build, inputs, 0, read, "f32")


def _audio_caches(cases: Cases, n: int) -> list[Buffer]:
    """One layer's keys and values of so many windows."""
    key, value = AUDIO_KEY_SHAPE, AUDIO_VALUE_SHAPE
    dtype = AUDIO_CACHES[cases.precision]
    if dtype == "int8":
        key, value, dtype = AUDIO_KEY_BYTES_SHAPE, AUDIO_VALUE_BYTES_SHAPE, "uint8"
    return _caches(cases, n, dtype, key, value)


def _text_caches(cases: Cases, n: int) -> list[Buffer]:
    """One layer's keys and values of so many rows."""
    return _caches(cases, n, CACHES[cases.precision], TEXT_KEY_SHAPE, TEXT_VALUE_SHAPE)


def _caches(cases: Cases, n: int, dtype: str, *shapes: tuple[int, ...]) -> list[Buffer]:
    heads = cases.model.n_text_head
    return [Buffer.zeros((1, n, heads, *shape), DTYPES[dtype], CPU()) for shape in shapes]


def _text_share(cases: Cases) -> float:
    """What is read of a row's keys and values."""
    return (POSITION + 1) / cases.model.n_text_ctx


def _positions(cases: Cases, rows: int) -> Any:
    return np.full(rows, POSITION, np.int32)


def _few(
    cases: Cases, name: str, m: int, k: int, n: int, norm: bool = False, gelu: bool = False
) -> None:
    matrix = cases.matrix(n, k)

    def build(plan: Plan, x: Any, bias: Any, first: Any, second: Any, *parts: Any) -> Any:
        if norm:
            return layers.norm_linear(plan, x, (first, second), Matrix(*parts), bias, gelu=gelu)
        return layers.linear_residual(plan, x, Matrix(*parts), bias, first)

    first, second = (cases.values(k),) * 2 if norm else (cases.values(m, n), cases.values(1))
    inputs = [cases.values(m, k), cases.values(n), first, second, *matrix]
    cases.add(name, build, inputs, 2.0 * m * n * k, float(matrix[0].nbytes), "f32")


def _logits(cases: Cases, name: str, m: int, k: int, n: int) -> None:
    matrix = cases.matrix(n, k)

    def build(plan: Plan, x: Any, gamma: Any, beta: Any, *parts: Any) -> Any:
        embedding = Matrix(*parts[:2], None, *parts[2:]) if len(parts) > 2 else Matrix(*parts)
        return layers.norm_logits(plan, x, (gamma, beta), embedding)

    if cases.precision == "int8":
        values, rests = cases.rng.integers(-127, 128, (2, n, k), dtype=np.int8)
        matrix = [pack_halves(values), matrix[1], np.ones(k, np.float32), pack_int8(rests)]
    inputs = [cases.values(m, k), cases.values(k), cases.values(k), *matrix]
    read = float(sum(part.nbytes for part in matrix if part.ndim > 1))
    cases.add(name, build, inputs, 2.0 * m * n * k, read, "f32")


def _head_and_choice(cases: Cases, name: str, m: int, k: int, n: int) -> None:
    """The LM head and the choice in one, where one token of each row is wanted, and likely."""
    tokens = cases.tokens
    matrix = cases.values(n, k)
    values, rests, scale = quantize_with_rests(matrix)
    x = matrix[cases.rng.integers(0, tokens.eot, m)] * PEAK + cases.values(m, k)
    ones, zeros = np.ones(k, np.float32), np.zeros(k, np.float32)
    stored = [pack_halves(values), scale, ones, pack_int8(rests)]
    state = rule_state([1000], False, tokens, None)
    rules = [
        np.zeros((2, n), np.float32),
        np.repeat(state[None], m, axis=0),
        *[np.zeros(m, np.float32)] * 2,
    ]
    asked = [sieve_bounds(values, rests), np.ones(m, np.int32), *rules]
    asked += [np.array([tokens.eot, tokens.timestamp_begin], np.int32), np.zeros(1, np.int32)]

    def build(plan: Plan, x: Any, gamma: Any, beta: Any, *rest: Any) -> Any:
        embedding = Matrix(*rest[:2], None, *rest[2:4])
        bounds, wanted, *rules, ids, ranks = rest[4:]
        head = layers_int8.Head((gamma, beta), embedding, bounds)
        return layers_int8.norm_choose(plan, x, head, wanted, rules, ids, ranks)[0]

    inputs = [x, ones, zeros, *stored, *asked]
    cases.add(name, build, inputs, 2.0 * m * n * k, stored[0].nbytes / 2, "f32")


def _bytes(*caches: Buffer) -> float:
    return float(sum(cache.num_elements * cache.element_size for cache in caches))
