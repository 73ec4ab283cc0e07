"""`encode` and `trace`: raw log-mel windows -> encoder, and the decoder's cross-attention caches.

Transformer layers that read the same kinds of weights are one subgraph, called for each of them, so
compile time does not grow with depth. `trace` is the same computation with every stage as an
output, for `verify`.
"""

from collections.abc import Sequence
from dataclasses import replace

from max.dtype import DType
from max.graph import Graph, TensorType, TensorValue, Value, ops

from mwc.compiler.graphs import layers, layers_int8
from mwc.compiler.graphs.scope import (
    DTYPES,
    LayerWeights,
    Plan,
    Scope,
    outputs_of,
)
from mwc.runtime.decoder import (
    AUDIO_KEY_BYTES_SHAPE,
    AUDIO_KEY_SHAPE,
    AUDIO_VALUE_BYTES_SHAPE,
    AUDIO_VALUE_SHAPE,
)
from mwc.runtime.spec import TensorSpec

FRONT_WEIGHTS = (
    "conv1.weight",
    "conv1.bias",
    "conv2.weight",
    "conv2.bias",
    "embed_positions.weight",
)
"""What the convolutions read."""

LAYER_WEIGHTS = (
    "self_attn_layer_norm.weight",
    "self_attn_layer_norm.bias",
    "self_attn.qkv.weight",
    "self_attn.qkv.bias",
    "self_attn.out_proj.weight",
    "self_attn.out_proj.bias",
    "final_layer_norm.weight",
    "final_layer_norm.bias",
    "fc1.weight",
    "fc1.bias",
    "fc2.weight",
    "fc2.bias",
)
"""What one encoder layer reads, in the order its subgraph takes them."""


def _feature_inputs(plan: Plan) -> tuple[TensorSpec, ...]:
    audio = plan.spec.audio
    return (
        TensorSpec("log_mel", "float32", ("batch", audio.n_frames, plan.model.n_mels)),
        TensorSpec("log_mel_max", "float32", ("batch",)),
        TensorSpec("n_frames", "int32", ("batch",)),
    )


def encode_inputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """Raw log-mel, its maximum, its length, the window slots, and the caches to fill."""
    return (
        *_feature_inputs(plan),
        TensorSpec("windows", "int32", ("batch",)),
        *cross_caches(plan),
        *draft_caches(plan),
    )


def cross_caches(plan: Plan) -> tuple[TensorSpec, TensorSpec]:
    """cross_k and cross_v, every layer, window and head; of bytes where the weights are int8."""
    model = plan.model
    head = (model.n_text_layer, "windows", model.n_text_head)
    dtype = plan.cache
    key: tuple[int, ...] = AUDIO_KEY_SHAPE
    value: tuple[int, ...] = AUDIO_VALUE_SHAPE
    if plan.int8:
        dtype, key, value = "uint8", AUDIO_KEY_BYTES_SHAPE, AUDIO_VALUE_BYTES_SHAPE
    return (
        TensorSpec("cross_k", dtype, (*head, *key), mutable=True),
        TensorSpec("cross_v", dtype, (*head, *value), mutable=True),
    )


def draft_caches(plan: Plan) -> tuple[TensorSpec, ...]:
    """The same of bytes, as int8 copies of the weights read them, where tokens are drafted."""
    if not plan.drafts:
        return ()
    return tuple(
        replace(cache, name=f"draft_{cache.name}") for cache in cross_caches(plan.for_drafts())
    )


def encode_outputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """audio_features float32 [batch, 1500, state]."""
    return (_states(plan, "audio_features"),)


def trace_inputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """As `encode`, without windows and caches."""
    return _feature_inputs(plan)


def trace_outputs(plan: Plan) -> tuple[TensorSpec, ...]:
    """Normalised log-mel, then the output of the convolutions, of every layer, of the encoder."""
    audio, model = plan.spec.audio, plan.model
    return (
        TensorSpec("log_mel", "float32", ("batch", audio.n_frames, model.n_mels)),
        _states(plan, "conv"),
        *(_states(plan, f"encoder.layers.{i}") for i in range(model.n_audio_layer)),
        _states(plan, "encoder"),
    )


def _states(plan: Plan, name: str) -> TensorSpec:
    model = plan.model
    return TensorSpec(name, "float32", ("batch", model.n_audio_ctx, model.n_audio_state))


def build_encode(scope: Scope, values: dict[str, Value]) -> list[TensorValue]:
    """Encode windows and put every decoder layer's cross-attention keys and values in place."""
    states = _stages(scope, values)[-1]
    windows = values["windows"].tensor
    caches = [values[spec.name].buffer for spec in encode_inputs(scope.plan) if spec.mutable]
    for i in range(scope.plan.model.n_text_layer):
        weight, bias = scope.linear(f"decoder.layers.{i}.encoder_attn.kv")
        layer = scope.constant_ids([i])
        if scope.plan.int8:
            pair = caches[0], caches[1]
            layers_int8.store_cross_kv(scope.plan, pair, states, weight, bias, windows, layer)
            continue
        kv = layers.linear(scope.plan, states, weight, bias)
        for pair in zip(caches[::2], caches[1::2], strict=True):
            layers.store_cross_kv(scope.plan, pair, kv, windows, layer)
    return [layers.cast(states, DType.float32)]


def build_trace(scope: Scope, values: dict[str, Value]) -> list[TensorValue]:
    """Every stage of the encoder, in float32."""
    stages = _stages(scope, values, front_apart=scope.plan.activations != "float32")
    return [layers.cast(stage, DType.float32) for stage in stages]


def _stages(
    scope: Scope, values: dict[str, Value], *, front_apart: bool = False
) -> list[TensorValue]:
    """Normalised log-mel, convolutions, each layer, final norm.

    `front_apart`: have the convolutions in a subgraph, so that what comes of them can be cast.
    Otherwise MAX 26.7 adds the positions once more for the cast, at the same time as in place for
    the layers (tests/parity/test_gpu_graphs.py).
    """
    plan = scope.plan
    inputs = (values[spec.name].tensor for spec in _feature_inputs(plan))
    log_mel = layers.normalise(plan, *inputs)
    names = plan.with_scales("encoder", FRONT_WEIGHTS)
    weights = scope.layer_weights("encoder", names)
    x = layers.cast(log_mel, DTYPES[plan.activations])
    if front_apart:
        x = outputs_of(ops.call(_front_subgraph(scope, x.type, names), x, *weights))[0]
    else:
        x = _convolutions(plan, x, values["n_frames"].tensor, LayerWeights(names, weights))
    stages = [log_mel, x]
    subgraphs: dict[tuple[str, ...], Graph] = {}
    for i in range(scope.plan.model.n_audio_layer):
        prefix = f"encoder.layers.{i}"
        names = scope.plan.with_scales(prefix, LAYER_WEIGHTS)
        if names not in subgraphs:
            subgraphs[names] = _layer_subgraph(scope, x.type, prefix, names)
        weights = scope.layer_weights(prefix, names)
        x = outputs_of(ops.call(subgraphs[names], x, *weights))[0]
        stages.append(x)
    norm = scope.layer_weights("encoder.layer_norm", ("weight", "bias"))
    return [*stages, layers.layer_norm(plan, x, *norm)]


def _front_subgraph(scope: Scope, x_type: TensorType, names: Sequence[str]) -> Graph:
    """The convolutions as a subgraph, of a GPU: (log-mel, weights) -> x."""
    types = [x_type, *scope.weight_types("encoder", names)]
    with scope.subgraph("encoder_front", types) as (subgraph, inputs):
        x, *weights = outputs_of(inputs)
        subgraph.output(_convolutions(scope.plan, x, None, LayerWeights(names, weights)))
    return subgraph


def _convolutions(
    plan: Plan, x: TensorValue, n_frames: TensorValue | None, weights: LayerWeights
) -> TensorValue:
    """Both convolutions (stride 1, then 2), and the positions; `n_frames` as for `layers`."""
    positions = layers.cast(weights.matrix("embed_positions").values, x.dtype)
    x = layers.convolution(plan, x, *weights.linear("conv1"), n_frames, stride=1)
    return layers.convolution(plan, x, *weights.linear("conv2"), n_frames, stride=2) + positions


def _layer_subgraph(scope: Scope, x_type: TensorType, prefix: str, names: tuple[str, ...]) -> Graph:
    """The layers that read weights like this one's as a subgraph: (x, weights) -> x."""
    plan = scope.plan
    types = [x_type, *scope.weight_types(prefix, names)]
    with scope.subgraph(prefix.replace(".", "_"), types) as (subgraph, inputs):
        x, *weights = outputs_of(inputs)
        w = LayerWeights(names, weights)
        norm = w.norm("self_attn_layer_norm")
        mixed = layers.encoder_self_attention(plan, x, norm, *w.linear("self_attn.qkv"))
        x = layers.linear(plan, mixed, *w.linear("self_attn.out_proj"), residual=x)
        norm = w.norm("final_layer_norm")
        subgraph.output(layers.feed_forward(plan, x, norm, w.linear("fc1"), w.linear("fc2")))
    return subgraph
