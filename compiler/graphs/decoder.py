"""`prefill`, `step`, `steps`, `copy_rows`, `logits`, `align`: the decoder over rows and windows.

Every one runs the same layers over a flat batch of tokens. A token names its row (whose
self-attention cache it extends), its position there, and its window (whose cross-attention cache
it reads); tokens of one row stand together in ascending positions. `step` gives each row one
token, `steps` one after the other, `prefill` a prompt, `logits` and `align` a whole transcript.
"""

from collections.abc import Sequence
from typing import NamedTuple

from max.dtype import DType
from max.graph import BufferValue, Graph, TensorType, TensorValue, Value, ops

from mwc.compiler.graphs import decoder_signatures as signatures
from mwc.compiler.graphs import layers, layers_int8
from mwc.compiler.graphs.scope import (
    LayerWeights,
    Matrix,
    Norm,
    Plan,
    Scope,
    input_type,
    outputs_of,
)
from mwc.compiler.weight_rules import DECODER_LAYERS
from mwc.runtime.decoder import STEPS_AHEAD, STEPS_UNTIL_END

LAYER_WEIGHTS = (
    "self_attn_layer_norm.weight",
    "self_attn_layer_norm.bias",
    "self_attn.qkv.weight",
    "self_attn.qkv.bias",
    "self_attn.out_proj.weight",
    "self_attn.out_proj.bias",
    "encoder_attn_layer_norm.weight",
    "encoder_attn_layer_norm.bias",
    "encoder_attn.q_proj.weight",
    "encoder_attn.q_proj.bias",
    "encoder_attn.out_proj.weight",
    "encoder_attn.out_proj.bias",
    "final_layer_norm.weight",
    "final_layer_norm.bias",
    "fc1.weight",
    "fc1.bias",
    "fc2.weight",
    "fc2.bias",
)
"""What one decoder layer reads while decoding, in the order its subgraph takes them."""

RULES = ("suppress", "rule_states", "temperatures", "uniforms")
"""What a choice depends on beside the logits."""


def build_step(scope: Scope, values: dict[str, Value]) -> list[TensorValue]:
    """Run the layers and choose each row's next token."""
    x = run_layers(scope, values, alone=True).x
    return _step_choice(scope, x, values)


def step_choice(scope: Scope, x: TensorValue, values: dict[str, Value]) -> list[TensorValue]:
    """Each row's next token [n, 1] and its log-probability [n, 1], from its last hidden state."""
    values = {**values, "ranks": scope.constant_ids([0])}
    return _step_choice(scope, x, values)


def fed(scope: Scope, token: TensorValue, values: dict[str, Value]) -> dict[str, Value]:
    """The inputs of the step that feeds a token [n, 1] chosen from those of the last one."""
    tokens, positions, states = layers.feed(
        scope.plan,
        token,
        values["positions"].tensor,
        values["rule_states"].tensor,
        scope.constant_ids([scope.plan.spec.tokens.timestamp_begin]),
    )
    return {**values, "tokens": tokens, "positions": positions, "rule_states": states}


def build_steps(scope: Scope, values: dict[str, Value]) -> list[TensorValue]:
    """Step several times without the host: what is chosen is fed, whatever it is."""
    if scope.plan.int8:
        return list(int8_steps(scope, values, STEPS_UNTIL_END, until_all_end=False))
    chosen, logprobs = [], []
    layer_graph = None
    for _ in range(STEPS_AHEAD):
        x, _, layer_graph = run_layers(scope, values, layer_graph, alone=True)
        token, logprob = step_choice(scope, x, values)
        chosen.append(token)
        logprobs.append(logprob)
        values = fed(scope, token, values)
    return [ops.concat(chosen, axis=1), ops.concat(logprobs, axis=1)]


def int8_steps(
    scope: Scope, values: dict[str, Value], n_steps: int, *, until_all_end: bool
) -> tuple[TensorValue, TensorValue, TensorValue]:
    """`layers_int8.steps` of a graph's inputs."""
    plan = scope.plan
    self_k, self_v, cross_k, cross_v = (values[c.name].buffer for c in signatures.caches(plan))
    tokens, rows, positions, windows = (values[t.name].tensor for t in signatures.TOKEN_INPUTS)
    rules = [values[name].tensor for name in ("wanted", *RULES)]
    return layers_int8.steps(
        plan,
        (self_k, self_v, cross_k, cross_v),
        (tokens, rows, positions, windows),
        scope.constant_ids([0, plan.model.n_text_layer]),
        scope.weight("decoder.embed_positions.weight"),
        _int8_head(scope),
        [*rules, layers.choice_ids(plan)],
        scope.weights(DECODER_LAYERS, LAYER_WEIGHTS),
        n_steps,
        until_all_end=until_all_end,
    )


def build_prefill(scope: Scope, values: dict[str, Value]) -> list[TensorValue]:
    """Run the prompts; choose after each row's last token, read probabilities at its sot."""
    tokens = scope.plan.spec.tokens
    logits = _logits(scope, _run_to_ends(scope, values))  # once where both are one token
    at_sot, at_last = (ops.gather(logits, values[name].tensor, 0) for name in ("sot", "last"))
    chosen = _choose(scope, at_last, values)
    no_speech = ops.gather(ops.softmax(at_sot), scope.constant_ids([tokens.no_speech]), 1)
    outputs = [*chosen, ops.squeeze(no_speech, 1)]
    if tokens.languages:
        ids = scope.constant_ids([token for _, token in tokens.languages])
        outputs.append(ops.softmax(ops.gather(at_sot, ids, 1)))
    return outputs


def build_copy_rows(scope: Scope, values: dict[str, Value]) -> list[TensorValue]:
    """Copy rows; no slot may be both a source and a target."""
    sources, targets, lengths = (values[name].tensor for name in ("sources", "targets", "lengths"))
    caches: tuple[BufferValue, BufferValue] = (values["self_k"].buffer, values["self_v"].buffer)
    layers.copy_rows(scope.plan, caches, sources, targets, lengths)
    return [targets]


def build_logits(scope: Scope, values: dict[str, Value]) -> list[TensorValue]:
    """Run the layers and return the raw logits of every token."""
    x = run_layers(scope, values).x
    return [_logits(scope, x)]


def build_align(scope: Scope, values: dict[str, Value]) -> list[TensorValue]:
    """Run the layers and return the alignment heads' scores, and the logits."""
    x, queries, _ = run_layers(scope, values)
    windows = values["windows"].tensor
    cross_k = values["cross_k"].buffer
    wanted = scope.plan.spec.tokens.alignment_heads
    scores = [
        layers.alignment_scores(
            scope.plan,
            cross_k,
            queries[layer],
            windows,
            scope.constant_ids([layer]),
            scope.constant_ids([head]),
        )
        for layer, head in wanted
    ]
    return [ops.concat(scores, axis=0), _logits(scope, x)]


def _choose(scope: Scope, logits: TensorValue, values: dict[str, Value]) -> list[TensorValue]:
    rules = (values[name].tensor for name in (*RULES, "ranks"))
    return list(layers.choose(scope.plan, logits, *rules))


def _logits(scope: Scope, x: TensorValue) -> TensorValue:
    return layers.norm_logits(scope.plan, x, *_head(scope))


def _head(scope: Scope) -> tuple[Norm, Matrix]:
    """The last norm, and the token embedding that logits are made with."""
    norm = scope.weight("decoder.layer_norm.weight"), scope.weight("decoder.layer_norm.bias")
    return norm, scope.matrix("decoder.embed_tokens")


def _step_choice(scope: Scope, x: TensorValue, values: dict[str, Value]) -> list[TensorValue]:
    """Each row's candidates, from its last hidden state; int8 models write no logits."""
    if not scope.plan.int8:
        return _choose(scope, _logits(scope, x), values)
    rules = [values[name].tensor for name in RULES]
    wanted, ranks = values["wanted"].tensor, values["ranks"].tensor
    ids = layers.choice_ids(scope.plan)
    return list(
        layers_int8.norm_choose(scope.plan, x, _int8_head(scope), wanted, rules, ids, ranks)
    )


def _int8_head(scope: Scope) -> layers_int8.Head:
    return layers_int8.Head(*_head(scope), scope.weight("decoder.embed_tokens.sieve_bounds"))


class Ran(NamedTuple):
    """What comes of running layers.

    Attributes:
        x: the last hidden states.
        queries: of each layer's cross-attention.
        layer_graph: the subgraph of a layer, for those who run them again; None in int8, where all
            layers are one kernel.
    """

    x: TensorValue
    queries: list[TensorValue]
    layer_graph: Graph | None


def run_layers(
    scope: Scope,
    values: dict[str, Value],
    layer_graph: Graph | None = None,
    n_layers: int | None = None,
    *,
    alone: bool = False,
) -> Ran:
    """Embed tokens and run the first `n_layers`, or all; a layer's subgraph is made or given.

    `alone`: whether each token is the only one of its row.
    """
    tokens, rows, positions, windows = (
        values[spec.name].tensor for spec in signatures.TOKEN_INPUTS
    )
    caches = [values[spec.name].buffer for spec in signatures.caches(scope.plan)]
    table = scope.weight("decoder.embed_positions.weight")
    embedding = scope.matrix("decoder.embed_tokens")
    x = layers.embed(scope.plan, tokens, positions, embedding, table)
    n_layers = scope.plan.model.n_text_layer if n_layers is None else n_layers
    if embedding.scale is not None:
        others = (rows, positions, windows)
        return _run_stacked(scope, caches, x, others, range(n_layers))
    if layer_graph is None and n_layers:
        token_types = [value.type for value in (rows, positions, windows)]
        layer_graph = _layer_subgraph(scope, x.type, token_types, alone)
    queries = []
    for i in range(n_layers):
        prefix = f"{DECODER_LAYERS}.{i}"
        weights = scope.layer_weights(prefix, LAYER_WEIGHTS)
        layer = scope.constant_ids([i])
        called = ops.call(layer_graph, x, rows, positions, windows, layer, *caches, *weights)
        x, query = outputs_of(called)
        queries.append(query)
    return Ran(x, queries, layer_graph)


def _run_stacked(
    scope: Scope,
    caches: Sequence[BufferValue],
    x: TensorValue,
    tokens: tuple[TensorValue, TensorValue, TensorValue],
    which: range,
) -> Ran:
    """Run int8 layers, whose weights are stacked, as one kernel.

    `tokens`: their rows, positions and windows.
    """
    if not which:
        return Ran(x, [], None)
    self_k, self_v, cross_k, cross_v = caches
    x, queries = layers_int8.decoder_layers(
        scope.plan,
        (self_k, self_v, cross_k, cross_v),
        x,
        tokens,
        scope.constant_ids([which.start, which.stop]),
        len(which),
        scope.weights(DECODER_LAYERS, LAYER_WEIGHTS),
    )
    return Ran(x, [queries[i] for i in range(len(which))], None)


def _run_to_ends(scope: Scope, values: dict[str, Value]) -> TensorValue:
    """The last hidden states [ends, state] of the tokens `ends`: each prompt's sot and its last.

    Of the last layer no others are needed, only the keys and values of all tokens. A GPU, which
    does not wait for the arithmetic of a prompt, runs all of it.
    """
    plan, ends = scope.plan, values["ends"].tensor
    if plan.on_gpu:
        return ops.gather(run_layers(scope, values).x, ends, 0)
    i = plan.model.n_text_layer - 1
    x = run_layers(scope, values, n_layers=i).x
    stacked = scope.weights(DECODER_LAYERS, LAYER_WEIGHTS) if plan.int8 else None
    w = stacked.of_layer(i) if stacked else scope.weights(f"{DECODER_LAYERS}.{i}", LAYER_WEIGHTS)
    layer = scope.constant_ids([i])
    caches = [values[spec.name].buffer for spec in signatures.caches(plan)]
    rows, positions, windows = (values[spec.name].tensor for spec in signatures.TOKEN_INPUTS[1:])
    norm = w.norm("self_attn_layer_norm")
    qkv = layers.norm_linear(plan, x, norm, *w.linear("self_attn.qkv"))
    layers.store_text_kv(plan, (caches[0], caches[1]), qkv, rows, positions, layer)
    x, rows, positions, windows = (ops.gather(v, ends, 0) for v in (x, rows, positions, windows))
    if stacked:
        return _run_stacked(scope, caches, x, (rows, positions, windows), range(i, i + 1)).x
    x, _ = _layer(plan, caches, x, (rows, positions, windows, layer), w)
    return x


def _layer_subgraph(
    scope: Scope, x_type: TensorType, token_types: Sequence[TensorType], alone: bool
) -> Graph:
    """One decoder layer: (x, rows, positions, windows, layer, caches, weights) -> (x, queries)."""
    plan = scope.plan
    types = [
        x_type,
        *token_types,
        TensorType(DType.int32, [1], plan.device),
        *(input_type(spec, plan.device) for spec in signatures.caches(plan)),
        *scope.weight_types(f"{DECODER_LAYERS}.0", LAYER_WEIGHTS),
    ]
    with scope.subgraph(f"decoder_layer_of_{x_type.shape[0]}", types) as (subgraph, inputs):
        x, *tokens = outputs_of(inputs[:5])
        caches = [value.buffer for value in inputs[5:9]]
        w = LayerWeights(LAYER_WEIGHTS, outputs_of(inputs[9:]))
        subgraph.output(*_layer(plan, caches, x, tokens, w, alone=alone))
    return subgraph


def _layer(
    plan: Plan,
    caches: Sequence[BufferValue],
    x: TensorValue,
    tokens: Sequence[TensorValue],
    w: LayerWeights,
    *,
    alone: bool = False,
) -> tuple[TensorValue, TensorValue]:
    """One decoder layer: x [n, s] -> x and the queries of its cross-attention, [n, s] each.

    `tokens`: their rows, positions, windows, and the layer; `caches`: as in the signatures;
    `alone`: as for `run_layers`.
    """
    self_k, self_v, cross_k, cross_v = caches
    rows, positions, windows, layer = tokens
    norm = w.norm("self_attn_layer_norm")
    qkv = layers.norm_linear(plan, x, norm, *w.linear("self_attn.qkv"))
    mixed = layers.self_attention(plan, (self_k, self_v), qkv, rows, positions, layer, alone=alone)
    x = layers.linear_residual(plan, mixed, *w.linear("self_attn.out_proj"), x)
    norm = w.norm("encoder_attn_layer_norm")
    query = layers.norm_linear(plan, x, norm, *w.linear("encoder_attn.q_proj"))
    mixed = layers.cross_attention(plan, (cross_k, cross_v), query, windows, layer)
    x = layers.linear_residual(plan, mixed, *w.linear("encoder_attn.out_proj"), x)
    norm = w.norm("final_layer_norm")
    hidden = layers.norm_linear(plan, x, norm, *w.linear("fc1"), gelu=True)
    return layers.linear_residual(plan, hidden, *w.linear("fc2"), x), query
