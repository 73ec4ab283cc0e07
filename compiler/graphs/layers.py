"""The layers of Whisper, each once, for CPU and GPU: what differs between devices is only here.

On a CPU matrix products and attention are mwc's kernels, which sum in f32 whatever the weight's
dtype: one kind for many rows (the encoder), one for few (decoding), both once more for int8
weights, whose sums are whole numbers. For GPUs both are in layers_gpu.py.
"""

from max.dtype import DType
from max.graph import BufferValue, Dim, TensorType, TensorValue, ops

from mwc.compiler.graphs import layers_gpu, layers_int8
from mwc.compiler.graphs.scope import Linear, Matrix, Norm, Plan, custom


def cast(x: TensorValue, dtype: DType) -> TensorValue:
    """x in another dtype; nothing where it already has it."""
    return x if x.dtype == dtype else ops.cast(x, dtype)


def linear(
    plan: Plan,
    x: TensorValue,
    weight: Matrix,
    bias: TensorValue | None = None,
    *,
    gelu: bool = False,
    residual: TensorValue | None = None,
    norm: Norm | None = None,
) -> TensorValue:
    """act(norm(x) @ weight.T + bias) + residual for many rows: [b, t, in] -> [b, t, out].

    Either `gelu` or `residual` may be given, and each only with a bias; int8 needs a bias.
    """
    if weight.scale is not None:
        assert bias is not None
        return layers_int8.linear(plan, x, weight, bias, gelu, residual, norm)
    x = x if norm is None else layer_norm(plan, x, *norm)
    if plan.on_gpu:
        return layers_gpu.linear(plan, x, weight.values, bias, gelu, residual)
    output = TensorType(DType.float32, [*x.shape[:2], weight.n_out], plan.device)
    if bias is None:
        return custom("mwc_matmul", plan, [x, weight.values], output)
    if residual is not None:
        return custom("mwc_matmul_residual", plan, [x, weight.values, bias, residual], output)
    return custom("mwc_matmul_bias", plan, [x, weight.values, bias], output, activation=int(gelu))


def feed_forward(
    plan: Plan, x: TensorValue, norm: Norm, first: Linear, second: Linear
) -> TensorValue:
    """x + second(GELU(first(norm(x)))) for many rows: [b, t, state] -> [b, t, state]."""
    if first[0].scale is not None:
        return layers_int8.feed_forward(plan, x, norm, first, second)
    hidden = linear(plan, x, *first, gelu=True, norm=norm)
    return linear(plan, hidden, *second, residual=x)


def layer_norm(plan: Plan, x: TensorValue, gamma: TensorValue, beta: TensorValue) -> TensorValue:
    """LayerNorm over the last axis."""
    if plan.on_gpu:
        return layers_gpu.norm(plan, x, gamma, beta)
    return custom("mwc_norm", plan, [x, gamma, beta], x.type)


def normalise(
    plan: Plan, log_mel: TensorValue, tops: TensorValue, n_frames: TensorValue
) -> TensorValue:
    """(max(log_mel, top - 8) + 4) / 4 of windows [b, t, n_mels], 0 from their `n_frames` on."""
    if plan.on_gpu:
        return layers_gpu.normalise(plan, log_mel, tops, n_frames)
    return custom("mwc_normalise", plan, [log_mel, tops, n_frames], log_mel.type)


def convolution(
    plan: Plan,
    x: TensorValue,
    weight: Matrix,
    bias: TensorValue,
    n_frames: TensorValue | None,
    *,
    stride: int,
) -> TensorValue:
    """GELU of a convolution of width 3 and padding 1: [b, t, in] -> [b, t / stride, out].

    The weight times the frames under its three taps, side by side: it is [out, 3 * in], tap by tap.
    `n_frames`, int32 [b]: frames of each window that are of the audio, which a CPU is told. The
    log-mel is zeros from there on, and the first convolution's output alike from one frame further.
    """
    if plan.on_gpu:
        return linear(plan, layers_gpu.taps(x, stride), weight, bias, gelu=True)
    assert n_frames is not None
    batch, frames, _ = x.shape
    shape = [batch, Dim(int(frames) // stride), weight.n_out]
    output = TensorType(DType.float32, shape, plan.device)
    name = "mwc_convolution" if weight.scale is None else "mwc_conv_int8"
    return custom(name, plan, [x, *weight.parts(), bias, n_frames], output, stride=stride)


def encoder_self_attention(
    plan: Plan, x: TensorValue, norm: Norm, weight: Matrix, bias: TensorValue
) -> TensorValue:
    """Attention of layer_norm(x) to all of itself: [b, t, state] -> [b, t, state].

    `weight` and `bias` make queries, keys and values, one after the other.
    """
    if plan.flash_attention:
        return layers_gpu.flash_attention(plan, layer_norm(plan, x, *norm), weight.values, bias)
    if plan.int8:
        heads = layers_int8.norm_heads(plan, x, norm, weight, bias)
        return layers_int8.encoder_attention(plan, heads, x.shape[1])
    return encoder_attention(plan, linear(plan, x, weight, bias, norm=norm))


def encoder_attention(plan: Plan, qkv: TensorValue) -> TensorValue:
    """Full self-attention of fused queries, keys, values: [b, t, 3 * state] -> [b, t, state].

    Queries are already scaled: weight_rules.py folds 64^-0.5 into them.
    """
    if plan.on_gpu:
        return layers_gpu.encoder_attention(plan, qkv)
    batch, time, width = qkv.shape
    output = TensorType(DType.float32, [batch, time, int(width) // 3], plan.device)
    return custom("mwc_encoder_attention", plan, [qkv], output)


def norm_linear(
    plan: Plan,
    x: TensorValue,
    norm: Norm,
    weight: Matrix,
    bias: TensorValue,
    *,
    gelu: bool = False,
) -> TensorValue:
    """act(layer_norm(x) @ weight.T + bias) for a few rows: [n, in] -> [n, out]."""
    if plan.on_gpu:
        return layers_gpu.norm_few_rows(plan, x, *norm, weight.values, bias, gelu=gelu)
    output = TensorType(DType.float32, [x.shape[0], weight.n_out], plan.device)
    inputs = [x, *norm, *weight.parts(), bias]
    return custom(_kernel("mwc_norm_linear", weight), plan, inputs, output, activation=int(gelu))


def linear_residual(
    plan: Plan, x: TensorValue, weight: Matrix, bias: TensorValue, residual: TensorValue
) -> TensorValue:
    """residual + x @ weight.T + bias for a few rows: [n, in] -> [n, out]."""
    if plan.on_gpu:
        return layers_gpu.few_rows(plan, x, weight.values, bias, residual=residual)
    output = TensorType(DType.float32, residual.shape, plan.device)
    inputs = [x, *weight.parts(), bias, residual]
    return custom(_kernel("mwc_linear_residual", weight), plan, inputs, output)


def norm_logits(plan: Plan, x: TensorValue, norm: Norm, embedding: Matrix) -> TensorValue:
    """The LM head, tied to the token embedding: [n, state] -> float32 [n, n_vocab]."""
    if plan.on_gpu:
        return layers_gpu.logits(plan, layer_norm(plan, x, *norm), embedding.values)
    output = TensorType(DType.float32, [x.shape[0], embedding.n_out], plan.device)
    inputs = [x, *norm, *_embedding(plan, embedding)]
    return custom(_kernel("mwc_norm_logits", embedding), plan, inputs, output)


def embed(
    plan: Plan,
    tokens: TensorValue,
    positions: TensorValue,
    embedding: Matrix,
    table: TensorValue,
) -> TensorValue:
    """Each token's row of the embedding plus its position's of the table: [n] -> [n, state]."""
    if plan.on_gpu:
        return layers_gpu.embed(plan, tokens, positions, embedding.values, table)
    output = TensorType(DType.float32, [tokens.shape[0], table.shape[1]], plan.device)
    inputs = [tokens, positions, *_embedding(plan, embedding), table]
    return custom(_kernel("mwc_embed", embedding), plan, inputs, output)


def _embedding(plan: Plan, embedding: Matrix) -> list[TensorValue]:
    """The token embedding as its kernels take it."""
    if embedding.scale is None:
        return embedding.parts()
    return layers_int8.embedding_parts(plan, embedding)


def _kernel(name: str, weight: Matrix) -> str:
    """The kernel of that name for the matrix's kind."""
    return name if weight.scale is None else f"{name}_int8"


def self_attention(
    plan: Plan,
    caches: tuple[BufferValue, BufferValue],
    qkv: TensorValue,
    rows: TensorValue,
    positions: TensorValue,
    layer: TensorValue,
    *,
    alone: bool = False,
) -> TensorValue:
    """Write each token's key and value into its row, attend up to it: [n, 3s] -> [n, s].

    `alone`: whether each token is the only one of its row, which takes a GPU one launch less.
    """
    sizes = {"positions_held": plan.model.n_text_ctx, "alone": int(alone)}
    return ops.inplace_custom(
        "mwc_gpu_self_attention" if plan.on_gpu else "mwc_self_attention",
        plan.device,
        [*caches, qkv, rows, positions, layer],
        [TensorType(qkv.dtype, [qkv.shape[0], Dim(plan.model.n_text_state)], plan.device)],
        parameters=sizes if plan.on_gpu else None,
    )[0].tensor


def store_text_kv(
    plan: Plan,
    caches: tuple[BufferValue, BufferValue],
    qkv: TensorValue,
    rows: TensorValue,
    positions: TensorValue,
    layer: TensorValue,
) -> None:
    """Write each token's key and value of [n, 3s] into its row, on a CPU."""
    inputs = [*caches, qkv, rows, positions, layer]
    ops.inplace_custom("mwc_store_text_kv", plan.device, inputs)


def cross_attention(
    plan: Plan,
    caches: tuple[BufferValue, BufferValue],
    q: TensorValue,
    windows: TensorValue,
    layer: TensorValue,
) -> TensorValue:
    """Attend to every audio position of each token's window: [n, s] -> [n, s]."""
    if plan.on_gpu:
        return layers_gpu.cross_attention(plan, caches, q, windows, layer)
    of_bytes = _is_of_bytes(caches[0])
    return ops.inplace_custom(
        f"mwc_cross_attention{'_int8' if of_bytes else ''}",
        plan.device,
        [*caches, q, windows, layer],
        [TensorType(q.dtype, q.shape, plan.device)],
        parameters={"length": plan.model.n_audio_ctx} if of_bytes else None,
    )[0].tensor


def alignment_scores(
    plan: Plan,
    cross_k: BufferValue,
    q: TensorValue,
    windows: TensorValue,
    layer: TensorValue,
    heads: TensorValue,
) -> TensorValue:
    """Cross-attention scores before softmax of some heads: float32 [heads, n, n_audio_ctx]."""
    shape = [heads.shape[0], q.shape[0], Dim(plan.model.n_audio_ctx)]
    return ops.inplace_custom(
        f"mwc_alignment_scores{'_int8' if _is_of_bytes(cross_k) else ''}",
        plan.device,
        [cross_k, q, windows, layer, heads],
        [TensorType(DType.float32, shape, plan.device)],
    )[0].tensor


def store_cross_kv(
    plan: Plan,
    caches: tuple[BufferValue, BufferValue],
    kv: TensorValue,
    windows: TensorValue,
    layer: TensorValue,
) -> None:
    """Put one layer's [b, n_audio_ctx, 2 * state] keys and values into the windows' slots."""
    name = f"mwc_store_cross_kv{'_int8' if _is_of_bytes(caches[0]) else ''}"
    ops.inplace_custom(name, plan.device, [*caches, kv, windows, layer])


def _is_of_bytes(cache: BufferValue) -> bool:
    """Whether a cross-attention cache holds 8-bit values, with kernels of its own."""
    return bool(cache.dtype == DType.uint8)


def choice_ids(plan: Plan) -> TensorValue:
    """The ids that the rules turn on: int32 [2] = (eot, timestamp_begin)."""
    tokens = plan.spec.tokens
    return ops.constant([tokens.eot, tokens.timestamp_begin], DType.int32, plan.device)


def choose(
    plan: Plan,
    logits: TensorValue,
    suppress: TensorValue,
    rule_states: TensorValue,
    temperatures: TensorValue,
    uniforms: TensorValue,
    ranks: TensorValue,
) -> tuple[TensorValue, TensorValue]:
    """The choice under the rules: int32 and float32 [n, k], k being the length of `ranks`."""
    ids = choice_ids(plan)
    shape = [logits.shape[0], ranks.shape[0]]
    inputs = [logits, suppress, rule_states, temperatures, uniforms, ids]
    kinds = [TensorType(dtype, shape, plan.device) for dtype in (DType.int32, DType.float32)]
    if plan.on_gpu:
        return layers_gpu.choose(plan, inputs, kinds)
    chosen = ops.custom("mwc_choose", plan.device, inputs, kinds)
    return chosen[0].tensor, chosen[1].tensor


def feed(
    plan: Plan,
    chosen: TensorValue,
    positions: TensorValue,
    rule_states: TensorValue,
    begin: TensorValue,
) -> tuple[TensorValue, TensorValue, TensorValue]:
    """Tokens [n], positions [n] and rule states [n, 6] of the step that feeds `chosen` [n, 1].

    One operation of our own: of slices and sums, MAX 26.7 reused the memory of the positions while
    a layer that was called as a subgraph still read them.
    """
    fed = ops.custom(
        "mwc_feed",
        plan.device,
        [chosen, positions, rule_states, begin],
        [
            TensorType(DType.int32, positions.shape, plan.device),
            TensorType(DType.int32, positions.shape, plan.device),
            TensorType(DType.int32, rule_states.shape, plan.device),
        ],
    )
    return fed[0].tensor, fed[1].tensor, fed[2].tensor


def copy_rows(
    plan: Plan,
    caches: tuple[BufferValue, BufferValue],
    sources: TensorValue,
    targets: TensorValue,
    lengths: TensorValue,
) -> None:
    """Copy the first positions of some rows' self-attention caches to other rows."""
    ops.inplace_custom("mwc_copy_rows", plan.device, [*caches, sources, targets, lengths])
