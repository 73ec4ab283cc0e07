"""A whole layer of the decoder in int8 artifacts, as one operation.

A step's products take microseconds each, no more than it costs to start an operation of a graph;
the same functions as the single operations call, one after the other, save most of that.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.gpu.host import DeviceContext

from .attention import self_attend
from .attention_ops import shape_of
from .cross_attention_int8 import U8, byte_shape_of, cross_attend_int8
from .linear import BIAS, BIAS_GELU, BIAS_RESIDUAL
from .linear_int8 import norm_product_int8, product_int8

comptime F32 = DType.float32
comptime I32 = DType.int32


@extensibility.register("mwc_decoder_layer_int8")
struct DecoderLayerInt8:
    """Self-attention, cross-attention and feed-forward of n tokens x f32 [n, state].

    The first four inputs are the caches, as for mwc_self_attention and mwc_cross_attention_int8
    with its `length`, then
    rows, positions and windows int32 [n] and layer int32 [1]. The rest are the layer's weights in
    the order of their use: a norm is (gamma, beta), a linear layer (w, scale, bias) as in
    quantized.mojo. Outputs: x after the layer, and the queries of its cross-attention.
    """

    @staticmethod
    def execute[target: StaticString, KV: DType, length: Int](
        y: OutputTensor[dtype=F32, rank=2, ...],
        queries: OutputTensor[dtype=F32, rank=2, ...],
        self_k: MutableInputTensor[dtype=KV, rank=6, ...],
        self_v: MutableInputTensor[dtype=KV, rank=5, ...],
        cross_k: MutableInputTensor[dtype=U8, rank=5, ...],
        cross_v: MutableInputTensor[dtype=U8, rank=4, ...],
        x: InputTensor[dtype=F32, rank=2, ...],
        rows: InputTensor[dtype=I32, rank=1, ...],
        positions: InputTensor[dtype=I32, rank=1, ...],
        windows: InputTensor[dtype=I32, rank=1, ...],
        layer: InputTensor[dtype=I32, rank=1, ...],
        self_gamma: InputTensor[dtype=F32, rank=1, ...],
        self_beta: InputTensor[dtype=F32, rank=1, ...],
        qkv_w: InputTensor[dtype=DType.int8, rank=4, ...],
        qkv_scale: InputTensor[dtype=F32, rank=1, ...],
        qkv_bias: InputTensor[dtype=F32, rank=1, ...],
        self_out_w: InputTensor[dtype=DType.int8, rank=4, ...],
        self_out_scale: InputTensor[dtype=F32, rank=1, ...],
        self_out_bias: InputTensor[dtype=F32, rank=1, ...],
        cross_gamma: InputTensor[dtype=F32, rank=1, ...],
        cross_beta: InputTensor[dtype=F32, rank=1, ...],
        q_w: InputTensor[dtype=DType.int8, rank=4, ...],
        q_scale: InputTensor[dtype=F32, rank=1, ...],
        q_bias: InputTensor[dtype=F32, rank=1, ...],
        cross_out_w: InputTensor[dtype=DType.int8, rank=4, ...],
        cross_out_scale: InputTensor[dtype=F32, rank=1, ...],
        cross_out_bias: InputTensor[dtype=F32, rank=1, ...],
        final_gamma: InputTensor[dtype=F32, rank=1, ...],
        final_beta: InputTensor[dtype=F32, rank=1, ...],
        fc1_w: InputTensor[dtype=DType.int8, rank=4, ...],
        fc1_scale: InputTensor[dtype=F32, rank=1, ...],
        fc1_bias: InputTensor[dtype=F32, rank=1, ...],
        fc2_w: InputTensor[dtype=DType.int8, rank=4, ...],
        fc2_scale: InputTensor[dtype=F32, rank=1, ...],
        fc2_bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var n = x.dim_size(0)
        var state = x.dim_size(1)
        var wide_size = max(3 * state, fc1_scale.dim_size(0))
        # qkv and later the hidden values; what attention mixed; x after each of the attentions.
        var wide_list = List[Float32](length=n * wide_size, fill=0)
        var mixed_list = List[Float32](length=n * state, fill=0)
        var first_list = List[Float32](length=n * state, fill=0)
        var second_list = List[Float32](length=n * state, fill=0)
        var wide = wide_list.unsafe_ptr()
        var mixed = mixed_list.unsafe_ptr()
        var first = first_list.unsafe_ptr()
        var second = second_list.unsafe_ptr()

        norm_product_int8[BIAS](
            wide, x.unsafe_ptr(), self_gamma.unsafe_ptr(), self_beta.unsafe_ptr(),
            qkv_w.unsafe_ptr(), qkv_scale.unsafe_ptr(), qkv_bias.unsafe_ptr(), n, 3 * state, state,
        )
        self_attend[KV](
            mixed, self_k.unsafe_ptr(), self_v.unsafe_ptr(), wide, rows.unsafe_ptr(),
            positions.unsafe_ptr(), n, shape_of(self_k, self_v, layer),
        )
        product_int8[BIAS_RESIDUAL](
            first, mixed, self_out_w.unsafe_ptr(), self_out_scale.unsafe_ptr(),
            self_out_bias.unsafe_ptr(), x.unsafe_ptr(), n, state, state,
        )

        norm_product_int8[BIAS](
            queries.unsafe_ptr(), first, cross_gamma.unsafe_ptr(), cross_beta.unsafe_ptr(),
            q_w.unsafe_ptr(), q_scale.unsafe_ptr(), q_bias.unsafe_ptr(), n, state, state,
        )
        cross_attend_int8(
            mixed, cross_k.unsafe_ptr(), cross_v.unsafe_ptr(), queries.unsafe_ptr(),
            windows.unsafe_ptr(), n, length, byte_shape_of(cross_k, cross_v, layer),
        )
        product_int8[BIAS_RESIDUAL](
            second, mixed, cross_out_w.unsafe_ptr(), cross_out_scale.unsafe_ptr(),
            cross_out_bias.unsafe_ptr(), first, n, state, state,
        )

        var h = fc1_scale.dim_size(0)
        norm_product_int8[BIAS_GELU](
            wide, second, final_gamma.unsafe_ptr(), final_beta.unsafe_ptr(), fc1_w.unsafe_ptr(),
            fc1_scale.unsafe_ptr(), fc1_bias.unsafe_ptr(), n, h, state,
        )
        product_int8[BIAS_RESIDUAL](
            y.unsafe_ptr(), wide, fc2_w.unsafe_ptr(), fc2_scale.unsafe_ptr(),
            fc2_bias.unsafe_ptr(), second, n, state, h,
        )
        _ = wide_list^
        _ = mixed_list^
        _ = first_list^
        _ = second_list^
