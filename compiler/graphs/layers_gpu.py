"""Matrix products and the encoder's attention on GPUs.

The encoder in bfloat16 multiplies on tensor cores, where the target has them for MAX's kernels. All
other products are mwc's kernel, which sums in float32: decoding reads every weight for a few rows,
each of which has to come out the same whatever its neighbours, and float32 is not rounded to TF32.
MAX's own op is not used: it compiles kernels once more for every shape and range of rows, for
minutes, and hands float16 and sizes that they cannot take to libraries that need not be there.
"""

from max.dtype import DType
from max.graph import TensorType, TensorValue, ops

from mwc.compiler.graphs.scope import Plan, custom

LOAD_BYTES = 16
"""What a thread reads at once."""

STEP_IN, STEP_OUT = 32, 128
"""Inputs and outputs of a product on tensor cores come in multiples of these."""

LEAST_IN = 128
"""Inputs that a product on tensor cores has at least: its pipeline holds four steps."""


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
    if bias is not None and plan.tensor_cores and _fits_tensor_cores(weight):
        kind = TensorType(x.dtype, [flat.shape[0], n_out], plan.device)
        y = custom("mwc_gpu_matmul", plan, [flat, weight], kind) + ops.cast(bias, x.dtype)
        y = ops.gelu(y) if gelu else y
        y = y if residual is None else residual + y
    else:
        y = product(plan, flat, weight, bias, gelu=gelu, residual=residual)
    return ops.reshape(y, [batch, time, n_out])


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
    state = int(width) // 3
    if not plan.flash_attention:
        kind = TensorType(qkv.dtype, [batch, time, state], plan.device)
        return custom("mwc_gpu_encoder_attention", plan, [qkv], kind)
    from max.nn.attention import MHAMaskVariant  # a second to import
    from max.nn.kernels import flash_attention_gpu

    heads = plan.model.n_audio_head
    q, k, v = (
        ops.reshape(part, [batch, time, heads, state // heads])
        for part in ops.split(qkv, [state] * 3, -1)
    )
    mixed = flash_attention_gpu(q, k, v, MHAMaskVariant.NULL_MASK, scale=1.0)
    return ops.reshape(mixed, [batch, time, state])


def _fits_tensor_cores(weight: TensorValue) -> bool:
    """Whether the kernel for tensor cores takes a matrix [out, in]."""
    n_out, n_in = (int(size) for size in weight.shape)
    return n_out % STEP_OUT == 0 and n_in % STEP_IN == 0 and n_in >= LEAST_IN


def _width(x: TensorValue, weight: TensorValue) -> int:
    """How many neighbours a thread reads at once; 1 where rows do not start on its boundaries."""
    size = max(x.dtype.size_in_bytes, weight.dtype.size_in_bytes)
    width = LOAD_BYTES // size
    return width if int(weight.shape[1]) % width == 0 else 1
