"""What GPUs compute differently: matrix products, norms, attention and the choice of a token.

In bfloat16 and float16 products run on tensor cores, with a kernel for many rows (the encoder) and
one for few (decoding reads every weight for a few rows, each of which has to come out the same
whatever its neighbours). In float32, and for sizes that the tensor cores do not take, one kernel
serves both; it sums in float32, not TF32. MAX's own op is not used: it compiles kernels once more
for every shape and range of rows, for minutes, and hands float16 and sizes that they cannot take
to libraries that need not be there.

Some operations have one result more: memory to work with, which nobody reads.
"""

from max.dtype import DType
from max.graph import BufferValue, TensorType, TensorValue, ops

from mwc.compiler.graphs.scope import DTYPES, Plan, custom

CLAMP = 8.0
"""Log-mel values are at most this far below the maximum (openai/whisper audio.py)."""

LOAD_BYTES = 16
"""What a thread reads at once."""

PIECE = 8
"""Inputs and outputs of a product of many rows on tensor cores come in multiples of this."""

TILE = 128
"""Outputs of such a product that are made together (matmul_gpu.mojo)."""

RUN = 32
"""Inputs of a product of few rows on tensor cores come in multiples of this."""

MOST_NORMED = 1280
"""Inputs up to which such a product makes the norm before it (few_rows_gpu.mojo)."""

AUDIO_RANGE, FOUND = 192, 66
"""Audio positions that a block attends to, and what it leaves (decode_attention_gpu.mojo)."""

CHOICE_PARTS, CHOICE_FOUND = 32, 6
"""Parts of the vocabulary, and what is found in each (choose_gpu.mojo)."""


def norm(plan: Plan, x: TensorValue, gamma: TensorValue, beta: TensorValue) -> TensorValue:
    """LayerNorm over the last axis."""
    flat = ops.reshape(x, [-1, x.shape[-1]]) if x.rank != 2 else x
    y = custom("mwc_gpu_norm", plan, [flat, gamma, beta], flat.type)
    return ops.reshape(y, x.shape) if x.rank != 2 else y


def normalise(
    plan: Plan, log_mel: TensorValue, tops: TensorValue, n_frames: TensorValue
) -> TensorValue:
    """As `layers.normalise`.

    openai/whisper pads the normalised log-mel of the last window with zeros (`pad_or_trim` in
    transcribe.py), which is not the same as silent samples.
    """
    floor = ops.reshape(tops - CLAMP, [log_mel.shape[0], 1, 1])
    scaled = (ops.max(log_mel, floor) + 4.0) / 4.0
    total = plan.spec.audio.n_frames
    frame = ops.range(0, total, 1, out_dim=total, dtype=DType.int32, device=plan.device)
    held = ops.unsqueeze(frame, 0) < ops.unsqueeze(n_frames, 1)
    zero = ops.constant(0.0, DType.float32, plan.device)
    return ops.where(ops.unsqueeze(held, 2), scaled, zero)


def taps(x: TensorValue, stride: int) -> TensorValue:
    """The frames under a convolution's taps: [b, t, d] -> [b, t / stride, 3 * d]; stride 1 or 2.

    Before the first frame and after the last one is one of zeros.
    """
    batch, frames, d = x.shape
    count, width = int(frames), int(d)
    padded = ops.pad(x, [0, 0, 1, 1, 0, 0])
    if stride == 1:
        return ops.concat([padded[:, tap : tap + count, :] for tap in range(3)], axis=-1)
    # Taps 0 and 1 of output t are frames 2t, 2t + 1, which lie together in memory.
    pairs = ops.reshape(padded, [batch, count // 2 + 1, 2 * width])
    return ops.concat([pairs[:, : count // 2, :], pairs[:, 1:, :width]], axis=-1)


def linear(
    plan: Plan,
    x: TensorValue,
    weight: TensorValue,
    bias: TensorValue | None,
    gelu: bool,
    residual: TensorValue | None,
) -> TensorValue:
    """act(x @ weight.T + bias) + residual for many rows: [b, t, in] -> [b, t, out]."""
    batch, time, n_in = x.shape
    n_out = weight.shape[0]
    flat = ops.reshape(x, [batch * time, n_in])
    if residual is not None:
        residual = ops.reshape(residual, [batch * time, n_out])
    if bias is not None and plan.tensor_cores and _fits(weight, PIECE, PIECE):
        kind = TensorType(x.dtype, [flat.shape[0], n_out], plan.device)
        inputs = [flat, weight, bias]
        if residual is None:
            y = custom("mwc_gpu_matmul", plan, inputs, kind, activation=int(gelu))
        else:
            y = custom("mwc_gpu_matmul_residual", plan, [*inputs, residual], kind)
    else:
        y = product(plan, flat, weight, bias, gelu=gelu, residual=residual)
    return ops.reshape(y, [batch, time, n_out])


def norm_few_rows(
    plan: Plan,
    x: TensorValue,
    gamma: TensorValue,
    beta: TensorValue,
    weight: TensorValue,
    bias: TensorValue,
    *,
    gelu: bool = False,
) -> TensorValue:
    """act(norm(x) @ weight.T + bias) for a few rows: [n, in] -> [n, out]."""
    fits = plan.tensor_cores and _fits(weight, RUN)
    if not fits or int(weight.shape[1]) > MOST_NORMED:
        return few_rows(plan, norm(plan, x, gamma, beta), weight, bias, gelu=gelu)
    kind = TensorType(x.dtype, [x.shape[0], weight.shape[0]], plan.device)
    return ops.custom(
        "mwc_gpu_norm_few_rows",
        plan.device,
        [x, gamma, beta, weight, bias],
        [kind, x.type],
        parameters={"activation": int(gelu)},
    )[0].tensor


def few_rows(
    plan: Plan,
    x: TensorValue,
    weight: TensorValue,
    bias: TensorValue,
    *,
    gelu: bool = False,
    residual: TensorValue | None = None,
) -> TensorValue:
    """act(x @ weight.T + bias) + residual for a few rows: [n, in] -> [n, out]."""
    if not (plan.tensor_cores and _fits(weight, RUN)):
        return product(plan, x, weight, bias, gelu=gelu, residual=residual)
    kind = TensorType(x.dtype, [x.shape[0], weight.shape[0]], plan.device)
    inputs = [x, weight, bias]
    if residual is not None:
        return custom("mwc_gpu_few_rows_residual", plan, [*inputs, residual], kind)
    return custom("mwc_gpu_few_rows", plan, inputs, kind, activation=int(gelu))


def logits(plan: Plan, x: TensorValue, embedding: TensorValue) -> TensorValue:
    """x @ embedding.T for a few rows: [n, state] -> float32 [n, n_vocab]."""
    if not (plan.tensor_cores and _fits(embedding, RUN)):
        return product(plan, x, embedding, output=DType.float32)
    kind = TensorType(DType.float32, [x.shape[0], embedding.shape[0]], plan.device)
    return custom("mwc_gpu_few_rows_product", plan, [x, embedding], kind)


def product(
    plan: Plan,
    x: TensorValue,
    weight: TensorValue,
    bias: TensorValue | None = None,
    *,
    gelu: bool = False,
    residual: TensorValue | None = None,
    output: DType | None = None,
) -> TensorValue:
    """act(x @ weight.T + bias) + residual: [n, in] -> [n, out] of `output`'s dtype, or x's.

    Either `gelu` or `residual` may be given, and each only with a bias; `output` only without.
    """
    kind = TensorType(output or x.dtype, [x.shape[0], weight.shape[0]], plan.device)
    width = _width(x, weight)
    if bias is None:
        return custom("mwc_gpu_product", plan, [x, weight], kind, width=width)
    inputs = [x, weight, bias]
    if residual is not None:
        name = "mwc_gpu_linear_residual"
        return custom(name, plan, [*inputs, residual], kind, width=width)
    return custom("mwc_gpu_linear", plan, inputs, kind, activation=int(gelu), width=width)


def encoder_attention(plan: Plan, qkv: TensorValue) -> TensorValue:
    """Full self-attention of fused queries, keys, values: [b, t, 3 * state] -> [b, t, state]."""
    batch, time, width = qkv.shape
    kind = TensorType(qkv.dtype, [batch, time, int(width) // 3], plan.device)
    return custom("mwc_gpu_encoder_attention", plan, [qkv], kind)


def flash_attention(
    plan: Plan, x: TensorValue, weight: TensorValue, bias: TensorValue
) -> TensorValue:
    """Queries, keys, values of x, and their full self-attention: [b, t, state] -> [b, t, state]."""
    from max.nn.attention import MHAMaskVariant  # a second to import
    from max.nn.kernels import flash_attention_gpu

    batch, time, state = x.shape
    heads = plan.model.n_audio_head
    q, k, v = (
        ops.reshape(third, [batch, time, heads, int(state) // heads])
        for third in thirds(plan, x, weight, bias)
    )
    mixed = flash_attention_gpu(q, k, v, MHAMaskVariant.NULL_MASK, scale=1.0)
    return ops.reshape(mixed, [batch, time, state])


def thirds(plan: Plan, x: TensorValue, weight: TensorValue, bias: TensorValue) -> list[TensorValue]:
    """x @ weight.T + bias in three: [b, t, in] -> three times [b, t, out / 3]."""
    batch, time, n_in = x.shape
    n_out = int(weight.shape[0]) // 3
    if not (plan.tensor_cores and n_out % TILE == 0 and _fits(weight, PIECE)):
        fused = linear(plan, x, weight, bias, False, None)
        return list(ops.split(fused, [n_out] * 3, -1))
    kind = TensorType(x.dtype, [batch * time, n_out], plan.device)
    inputs = [ops.reshape(x, [batch * time, n_in]), weight, bias]
    found = ops.custom("mwc_gpu_matmul_thirds", plan.device, inputs, [kind] * 3)
    return [ops.reshape(third.tensor, [batch, time, n_out]) for third in found]


def embed(
    plan: Plan,
    tokens: TensorValue,
    positions: TensorValue,
    embedding: TensorValue,
    table: TensorValue,
) -> TensorValue:
    """Each token's row of the embedding plus its position's of the table: [n] -> [n, state]."""
    kind = TensorType(DTYPES[plan.activations], [tokens.shape[0], table.shape[1]], plan.device)
    return custom("mwc_gpu_embed", plan, [tokens, positions, embedding, table], kind)


def cross_attention(
    plan: Plan,
    caches: tuple[BufferValue, BufferValue],
    q: TensorValue,
    windows: TensorValue,
    layer: TensorValue,
) -> TensorValue:
    """Attend to every audio position of each token's window: [n, s] -> [n, s]."""
    parts = -(-plan.model.n_audio_ctx // AUDIO_RANGE)
    found = [q.shape[0], plan.model.n_text_head, parts, FOUND]
    return ops.inplace_custom(
        "mwc_gpu_cross_attention",
        plan.device,
        [*caches, q, windows, layer],
        [q.type, TensorType(DType.float32, found, plan.device)],
    )[0].tensor


def choose(
    plan: Plan, inputs: list[TensorValue], kinds: list[TensorType]
) -> tuple[TensorValue, TensorValue]:
    """The choice under the rules, of mwc_choose's inputs: its two results."""
    found = [inputs[0].shape[0], CHOICE_PARTS, CHOICE_FOUND]
    kinds = [*kinds, TensorType(DType.float32, found, plan.device)]
    tokens, logprobs, _ = ops.custom("mwc_gpu_choose", plan.device, inputs, kinds)
    return tokens.tensor, logprobs.tensor


def _fits(weight: TensorValue, step_in: int, step_out: int = 1) -> bool:
    """Whether a kernel for tensor cores takes a matrix [out, in]."""
    n_out, n_in = (int(size) for size in weight.shape)
    return n_out % step_out == 0 and n_in % step_in == 0


def _width(x: TensorValue, weight: TensorValue) -> int:
    """How many neighbours a thread reads at once; 1 where rows do not start on its boundaries."""
    size = max(x.dtype.size_in_bytes, weight.dtype.size_in_bytes)
    width = LOAD_BYTES // size
    return width if int(weight.shape[1]) % width == 0 else 1
