"""A whole layer of the decoder in int8 artifacts, as one operation.

A step's products take microseconds each, less than it costs to start the threads: they are started
once, and go through the layer's phases together (`parallel.work_through`).
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.runtime import parallelism_level

from .attention import runs_of, self_attend_run
from .attention_ops import shape_of
from .cross_attention_int8 import TOGETHER_INT8, U8, attend_run, byte_shape_of
from .feed import all_ended
from .linear import BIAS, BIAS_GELU, BIAS_RESIDUAL, layer_norm_rows
from .linear_int8 import blocks_of, multiply_blocks, quantize_rows
from .parallel import phase_counters, work_through
from .quantized import GROUP_TERMS

comptime F32 = DType.float32
comptime I32 = DType.int32
comptime PHASES = 14
comptime ROWS_AT_ONCE = 8
"""Rows that one thread rounds as one item of a phase."""
comptime SHARES = 2
"""Parts of a product for each thread: one that comes late leaves the other no long wait."""
comptime SERIAL_LAYER = 1 << 14
"""Tokens times squared size below which one thread is as fast."""


@always_inline
def quantize_phase(
    words: Pointer[mut=True, Int16, _],
    units: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    m: Int,
    k: Int,
    counters: Pointer[mut=True, Int64, _],
    phase: Int,
):
    """Round x[m, k] for the product that comes next."""

    def some_rows(item: Int) {imm}:
        var first = item * ROWS_AT_ONCE
        quantize_rows(words, units, x, first, min(first + ROWS_AT_ONCE, m), m, k, GROUP_TERMS)

    work_through(some_rows, (m + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE, counters, phase)


@always_inline
def norm_phase(
    words: Pointer[mut=True, Int16, _],
    units: Pointer[mut=True, Float32, _],
    normed: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    gamma: Pointer[Float32, _],
    beta: Pointer[Float32, _],
    m: Int,
    k: Int,
    counters: Pointer[mut=True, Int64, _],
    phase: Int,
):
    """Normalise x[m, k] and round it for the product that comes next."""

    def some_rows(item: Int) {imm}:
        var first = item * ROWS_AT_ONCE
        var last = min(first + ROWS_AT_ONCE, m)
        var at = first * k
        layer_norm_rows(
            normed.unsafe_offset(at), x.unsafe_offset(at), gamma, beta, last - first, k
        )
        quantize_rows(words, units, normed, first, last, m, k, GROUP_TERMS)

    work_through(some_rows, (m + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE, counters, phase)


@always_inline
def product_phase[epilogue: Int](
    y: Pointer[mut=True, Float32, _],
    words: Pointer[Int16, _],
    units: Pointer[Float32, _],
    w: Pointer[Int8, _],
    scale: Pointer[Float32, _],
    group_scale: Pointer[UInt8, _],
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    m: Int,
    n: Int,
    k: Int,
    threads: Int,
    counters: Pointer[mut=True, Int64, _],
    phase: Int,
):
    """Set y[m, n] = epilogue(x[m, k] · wᵀ) of x as rounded by the phase before."""
    var blocks = blocks_of(n)
    var items = min(blocks, SHARES * threads)

    def some_blocks(item: Int) {imm}:
        multiply_blocks[epilogue](
            y, words, units, w, scale, group_scale, bias, residual,
            blocks * item // items, blocks * (item + 1) // items, m, n, k,
        )

    work_through(some_blocks, items, counters, phase)


@extensibility.register("mwc_decoder_layer_int8")
struct DecoderLayerInt8:
    """Self-attention, cross-attention and feed-forward of n tokens x f32 [n, state].

    The first four inputs are the caches, as for mwc_self_attention and mwc_cross_attention_int8
    with its `length`, then
    rows, positions and windows int32 [n] and layer int32 [1]. The rest are the layer's weights in
    the order of their use: a norm is (gamma, beta), a linear layer (w, scale, group_scale, bias) as in
    quantized.mojo. Outputs: x after the layer, and the queries of its cross-attention; nothing where
    all rows have ended (feed.mojo).
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
        qkv_group_scale: InputTensor[dtype=DType.uint8, rank=3, ...],
        qkv_bias: InputTensor[dtype=F32, rank=1, ...],
        self_out_w: InputTensor[dtype=DType.int8, rank=4, ...],
        self_out_scale: InputTensor[dtype=F32, rank=1, ...],
        self_out_group_scale: InputTensor[dtype=DType.uint8, rank=3, ...],
        self_out_bias: InputTensor[dtype=F32, rank=1, ...],
        cross_gamma: InputTensor[dtype=F32, rank=1, ...],
        cross_beta: InputTensor[dtype=F32, rank=1, ...],
        q_w: InputTensor[dtype=DType.int8, rank=4, ...],
        q_scale: InputTensor[dtype=F32, rank=1, ...],
        q_group_scale: InputTensor[dtype=DType.uint8, rank=3, ...],
        q_bias: InputTensor[dtype=F32, rank=1, ...],
        cross_out_w: InputTensor[dtype=DType.int8, rank=4, ...],
        cross_out_scale: InputTensor[dtype=F32, rank=1, ...],
        cross_out_group_scale: InputTensor[dtype=DType.uint8, rank=3, ...],
        cross_out_bias: InputTensor[dtype=F32, rank=1, ...],
        final_gamma: InputTensor[dtype=F32, rank=1, ...],
        final_beta: InputTensor[dtype=F32, rank=1, ...],
        fc1_w: InputTensor[dtype=DType.int8, rank=4, ...],
        fc1_scale: InputTensor[dtype=F32, rank=1, ...],
        fc1_group_scale: InputTensor[dtype=DType.uint8, rank=3, ...],
        fc1_bias: InputTensor[dtype=F32, rank=1, ...],
        fc2_w: InputTensor[dtype=DType.int8, rank=4, ...],
        fc2_scale: InputTensor[dtype=F32, rank=1, ...],
        fc2_group_scale: InputTensor[dtype=DType.uint8, rank=3, ...],
        fc2_bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        if all_ended(positions.unsafe_ptr()):
            return
        var n = x.dim_size(0)
        var state = x.dim_size(1)
        var h = fc1_scale.dim_size(0)
        # qkv and later the hidden values; what attention mixed; x after each of the attentions.
        var wide_list = List[Float32](length=n * max(3 * state, h), fill=0)
        var mixed_list = List[Float32](length=n * state, fill=0)
        var first_list = List[Float32](length=n * state, fill=0)
        var second_list = List[Float32](length=n * state, fill=0)
        # Activations as the products take them.
        var word_list = List[Int16](length=n * max(state, h), fill=0)
        var unit_list = List[Float32](length=n, fill=0)
        var row_starts = runs_of(rows.unsafe_ptr(), n, n)
        var window_starts = runs_of(windows.unsafe_ptr(), n, TOGETHER_INT8)
        var counter_list = phase_counters(PHASES)

        var wide = wide_list.unsafe_ptr()
        var mixed = mixed_list.unsafe_ptr()
        var first = first_list.unsafe_ptr()
        var second = second_list.unsafe_ptr()
        var words = word_list.unsafe_ptr()
        var units = unit_list.unsafe_ptr()
        var counters = counter_list.unsafe_ptr()
        var threads = parallelism_level()

        var x_ptr = x.unsafe_ptr()
        var y_ptr = y.unsafe_ptr()
        var query_ptr = queries.unsafe_ptr()
        var row_ptr = rows.unsafe_ptr()
        var position_ptr = positions.unsafe_ptr()
        var window_ptr = windows.unsafe_ptr()
        var row_start_ptr = row_starts.unsafe_ptr()
        var window_start_ptr = window_starts.unsafe_ptr()
        var self_key_ptr = self_k.unsafe_ptr()
        var self_value_ptr = self_v.unsafe_ptr()
        var cross_key_ptr = cross_k.unsafe_ptr()
        var cross_value_ptr = cross_v.unsafe_ptr()
        var self_cache = shape_of(self_k, self_v, layer)
        var cross_cache = byte_shape_of(cross_k, cross_v, layer)
        var window_runs = len(window_starts) - 1

        var row_items = (len(row_starts) - 1) * self_cache.heads

        def self_attention(item: Int) {imm}:
            # The item after those that other threads are at.
            self_attend_run[KV](
                mixed, self_key_ptr, self_value_ptr, wide, row_ptr, position_ptr, row_start_ptr,
                item, min(item + threads, row_items - 1), self_cache,
            )

        def cross_attention(item: Int) {imm}:
            attend_run(
                mixed, cross_key_ptr, cross_value_ptr, query_ptr, window_ptr, window_start_ptr,
                window_runs, item, length, cross_cache,
            )

        def task(t: Int) {imm}:
            norm_phase(
                words, units, mixed, x_ptr, self_gamma.unsafe_ptr(), self_beta.unsafe_ptr(), n, state,
                counters, 0,
            )
            product_phase[BIAS](
                wide, words, units, qkv_w.unsafe_ptr(), qkv_scale.unsafe_ptr(),
                qkv_group_scale.unsafe_ptr(), qkv_bias.unsafe_ptr(),
                x_ptr, n, 3 * state, state, threads, counters, 1,
            )
            work_through(self_attention, row_items, counters, 2)
            quantize_phase(words, units, mixed, n, state, counters, 3)
            product_phase[BIAS_RESIDUAL](
                first, words, units, self_out_w.unsafe_ptr(), self_out_scale.unsafe_ptr(),
                self_out_group_scale.unsafe_ptr(), self_out_bias.unsafe_ptr(),
                x_ptr, n, state, state, threads, counters, 4,
            )

            norm_phase(
                words, units, mixed, first, cross_gamma.unsafe_ptr(), cross_beta.unsafe_ptr(), n, state,
                counters, 5,
            )
            product_phase[BIAS](
                query_ptr, words, units, q_w.unsafe_ptr(), q_scale.unsafe_ptr(),
                q_group_scale.unsafe_ptr(), q_bias.unsafe_ptr(),
                first, n, state, state, threads, counters, 6,
            )
            work_through(cross_attention, window_runs * cross_cache.heads, counters, 7)
            quantize_phase(words, units, mixed, n, state, counters, 8)
            product_phase[BIAS_RESIDUAL](
                second, words, units, cross_out_w.unsafe_ptr(), cross_out_scale.unsafe_ptr(),
                cross_out_group_scale.unsafe_ptr(), cross_out_bias.unsafe_ptr(),
                first, n, state, state, threads, counters, 9,
            )

            norm_phase(
                words, units, mixed, second, final_gamma.unsafe_ptr(), final_beta.unsafe_ptr(), n, state,
                counters, 10,
            )
            product_phase[BIAS_GELU](
                wide, words, units, fc1_w.unsafe_ptr(), fc1_scale.unsafe_ptr(),
                fc1_group_scale.unsafe_ptr(), fc1_bias.unsafe_ptr(),
                second, n, h, state, threads, counters, 11,
            )
            quantize_phase(words, units, wide, n, h, counters, 12)
            product_phase[BIAS_RESIDUAL](
                y_ptr, words, units, fc2_w.unsafe_ptr(), fc2_scale.unsafe_ptr(),
                fc2_group_scale.unsafe_ptr(), fc2_bias.unsafe_ptr(),
                second, n, state, h, threads, counters, 13,
            )

        if n * state * state < SERIAL_LAYER:
            task(0)
        else:
            sync_parallelize(task, threads)
        _ = wide_list^
        _ = mixed_list^
        _ = first_list^
        _ = second_list^
        _ = word_list^
        _ = unit_list^
        _ = row_starts^
        _ = window_starts^
        _ = counter_list^
