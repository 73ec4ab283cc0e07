"""The layers of the decoder in int8 artifacts, as one operation.

A step's products take microseconds each, less than it costs to start the threads: they are started
once, and go through the phases of all layers together (`parallel.work_through`).
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.runtime import parallelism_level

from .attention import CacheShape, runs_of, self_attend_run
from .attention_ops import shape_of
from .cross_attention_int8 import TOGETHER_INT8, U8, ByteCacheShape, attend_run, byte_shape_of
from .feed import all_ended
from .linear import BIAS, BIAS_GELU, BIAS_RESIDUAL, layer_norm_rows
from .linear_int8 import blocks_of, multiply_blocks, quantize_rows, term_groups
from .parallel import phase_counters, work_through
from .pointers import Values, untracked
from .quantized import COLUMNS, GROUP_TERMS, TERMS

comptime F32 = DType.float32
comptime I32 = DType.int32
comptime PHASES = 14
comptime ROWS_AT_ONCE = 8
"""Rows that one thread rounds as one item of a phase."""
comptime SHARES = 2
"""Parts of a product for each thread: one that comes late leaves the other no long wait."""
comptime SERIAL_LAYER = 1 << 14
"""Tokens times squared size below which one thread is as fast."""


@fieldwise_init
struct Linears(Copyable, ImplicitlyCopyable, Movable):
    """A linear layer of each decoder layer, or of those from one on: n outputs of k terms."""

    var w: Pointer[Int8, ImmUntrackedOrigin]
    var scale: Values
    var group_scale: Pointer[UInt8, ImmUntrackedOrigin]
    var bias: Values
    var n: Int
    var k: Int

    @always_inline
    def from_layer(self, layer: Int) -> Self:
        """Those of a layer and what follows it."""
        var columns = blocks_of(self.n) * COLUMNS
        return Self(
            self.w.unsafe_offset(layer * columns * self.k), self.scale.unsafe_offset(layer * self.n),
            self.group_scale.unsafe_offset(layer * columns * term_groups(self.k)),
            self.bias.unsafe_offset(layer * self.n), self.n, self.k,
        )


@always_inline
def linears_of(
    w: InputTensor[dtype=DType.int8, rank=5, ...],
    scale: InputTensor[dtype=F32, rank=2, ...],
    group_scale: InputTensor[dtype=DType.uint8, rank=4, ...],
    bias: InputTensor[dtype=F32, rank=2, ...],
) -> Linears:
    """The linear layers of all decoder layers, which the tensors hold one after the other."""
    return Linears(
        untracked(w.unsafe_ptr()), untracked(scale.unsafe_ptr()), untracked(group_scale.unsafe_ptr()),
        untracked(bias.unsafe_ptr()), scale.dim_size(1), w.dim_size(2) * TERMS,
    )


@fieldwise_init
struct Norms(Copyable, ImplicitlyCopyable, Movable):
    """A layer norm of each decoder layer, or of those from one on, over k values."""

    var gamma: Values
    var beta: Values
    var k: Int

    @always_inline
    def from_layer(self, layer: Int) -> Self:
        """Those of a layer and what follows it."""
        var at = layer * self.k
        return Self(self.gamma.unsafe_offset(at), self.beta.unsafe_offset(at), self.k)


@always_inline
def norms_of(
    gamma: InputTensor[dtype=F32, rank=2, ...], beta: InputTensor[dtype=F32, rank=2, ...]
) -> Norms:
    """The norms of all decoder layers."""
    return Norms(untracked(gamma.unsafe_ptr()), untracked(beta.unsafe_ptr()), gamma.dim_size(1))


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
    norm: Norms,
    m: Int,
    counters: Pointer[mut=True, Int64, _],
    phase: Int,
):
    """Normalise x[m, k] by the first of the norms and round it for the product that comes next."""
    var k = norm.k

    def some_rows(item: Int) {imm}:
        var first = item * ROWS_AT_ONCE
        var last = min(first + ROWS_AT_ONCE, m)
        var at = first * k
        layer_norm_rows(
            normed.unsafe_offset(at), x.unsafe_offset(at), norm.gamma, norm.beta, last - first, k
        )
        quantize_rows(words, units, normed, first, last, m, k, GROUP_TERMS)

    work_through(some_rows, (m + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE, counters, phase)


@always_inline
def product_phase[epilogue: Int](
    y: Pointer[mut=True, Float32, _],
    words: Pointer[Int16, _],
    units: Pointer[Float32, _],
    linear: Linears,
    residual: Pointer[Float32, _],
    m: Int,
    threads: Int,
    counters: Pointer[mut=True, Int64, _],
    phase: Int,
):
    """Set y[m, n] = epilogue(x[m, k] · wᵀ) with the first of the layers, x as rounded by the phase before."""
    var blocks = blocks_of(linear.n)
    var items = min(blocks, SHARES * threads)

    def some_blocks(item: Int) {imm}:
        multiply_blocks[epilogue](
            y, words, units, linear.w, linear.scale, linear.group_scale, linear.bias, residual,
            blocks * item // items, blocks * (item + 1) // items, m, linear.n, linear.k,
        )

    work_through(some_blocks, items, counters, phase)


@extensibility.register("mwc_decoder_layers_int8")
struct DecoderLayersInt8:
    """Self-attention, cross-attention and feed-forward of n tokens x f32 [n, state], layer after layer.

    The first four inputs are the caches, as for mwc_self_attention and mwc_cross_attention_int8
    with its `length`, then rows, positions and windows int32 [n], and layers int32 [2]: the first
    one, and the one after the last. The rest are the weights of all layers in the order of their use,
    with the layers as first axis: a norm is (gamma, beta), a linear layer (w, scale, group_scale, bias)
    as in quantized.mojo. Outputs: x after the layers, and the queries of their cross-attention
    [layers that run, n, state]; nothing where all rows have ended (feed.mojo).
    """

    @staticmethod
    def execute[target: StaticString, KV: DType, length: Int](
        y: OutputTensor[dtype=F32, rank=2, ...],
        queries: OutputTensor[dtype=F32, rank=3, ...],
        self_k: MutableInputTensor[dtype=KV, rank=6, ...],
        self_v: MutableInputTensor[dtype=KV, rank=5, ...],
        cross_k: MutableInputTensor[dtype=U8, rank=5, ...],
        cross_v: MutableInputTensor[dtype=U8, rank=4, ...],
        x: InputTensor[dtype=F32, rank=2, ...],
        rows: InputTensor[dtype=I32, rank=1, ...],
        positions: InputTensor[dtype=I32, rank=1, ...],
        windows: InputTensor[dtype=I32, rank=1, ...],
        layers: InputTensor[dtype=I32, rank=1, ...],
        self_gamma: InputTensor[dtype=F32, rank=2, ...],
        self_beta: InputTensor[dtype=F32, rank=2, ...],
        qkv_w: InputTensor[dtype=DType.int8, rank=5, ...],
        qkv_scale: InputTensor[dtype=F32, rank=2, ...],
        qkv_group_scale: InputTensor[dtype=DType.uint8, rank=4, ...],
        qkv_bias: InputTensor[dtype=F32, rank=2, ...],
        self_out_w: InputTensor[dtype=DType.int8, rank=5, ...],
        self_out_scale: InputTensor[dtype=F32, rank=2, ...],
        self_out_group_scale: InputTensor[dtype=DType.uint8, rank=4, ...],
        self_out_bias: InputTensor[dtype=F32, rank=2, ...],
        cross_gamma: InputTensor[dtype=F32, rank=2, ...],
        cross_beta: InputTensor[dtype=F32, rank=2, ...],
        q_w: InputTensor[dtype=DType.int8, rank=5, ...],
        q_scale: InputTensor[dtype=F32, rank=2, ...],
        q_group_scale: InputTensor[dtype=DType.uint8, rank=4, ...],
        q_bias: InputTensor[dtype=F32, rank=2, ...],
        cross_out_w: InputTensor[dtype=DType.int8, rank=5, ...],
        cross_out_scale: InputTensor[dtype=F32, rank=2, ...],
        cross_out_group_scale: InputTensor[dtype=DType.uint8, rank=4, ...],
        cross_out_bias: InputTensor[dtype=F32, rank=2, ...],
        final_gamma: InputTensor[dtype=F32, rank=2, ...],
        final_beta: InputTensor[dtype=F32, rank=2, ...],
        fc1_w: InputTensor[dtype=DType.int8, rank=5, ...],
        fc1_scale: InputTensor[dtype=F32, rank=2, ...],
        fc1_group_scale: InputTensor[dtype=DType.uint8, rank=4, ...],
        fc1_bias: InputTensor[dtype=F32, rank=2, ...],
        fc2_w: InputTensor[dtype=DType.int8, rank=5, ...],
        fc2_scale: InputTensor[dtype=F32, rank=2, ...],
        fc2_group_scale: InputTensor[dtype=DType.uint8, rank=4, ...],
        fc2_bias: InputTensor[dtype=F32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        if all_ended(positions.unsafe_ptr()):
            return
        var self_norms = norms_of(self_gamma, self_beta)
        var qkvs = linears_of(qkv_w, qkv_scale, qkv_group_scale, qkv_bias)
        var self_outs = linears_of(self_out_w, self_out_scale, self_out_group_scale, self_out_bias)
        var cross_norms = norms_of(cross_gamma, cross_beta)
        var qs = linears_of(q_w, q_scale, q_group_scale, q_bias)
        var cross_outs = linears_of(cross_out_w, cross_out_scale, cross_out_group_scale, cross_out_bias)
        var final_norms = norms_of(final_gamma, final_beta)
        var fc1s = linears_of(fc1_w, fc1_scale, fc1_group_scale, fc1_bias)
        var fc2s = linears_of(fc2_w, fc2_scale, fc2_group_scale, fc2_bias)

        var n = x.dim_size(0)
        var state = x.dim_size(1)
        var h = fc1s.n
        var first_layer = Int(layers.unsafe_ptr()[unsafe_offset=0])
        var end_layer = Int(layers.unsafe_ptr()[unsafe_offset=1])
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
        var counter_list = phase_counters(PHASES * (end_layer - first_layer))

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
        var all_queries = queries.unsafe_ptr()
        var row_ptr = rows.unsafe_ptr()
        var position_ptr = positions.unsafe_ptr()
        var window_ptr = windows.unsafe_ptr()
        var row_start_ptr = row_starts.unsafe_ptr()
        var window_start_ptr = window_starts.unsafe_ptr()
        var self_key_ptr = self_k.unsafe_ptr()
        var self_value_ptr = self_v.unsafe_ptr()
        var cross_key_ptr = cross_k.unsafe_ptr()
        var cross_value_ptr = cross_v.unsafe_ptr()
        var self_caches = shape_of(self_k, self_v, layers)
        var cross_caches = byte_shape_of(cross_k, cross_v, layers)
        var slots = self_k.dim_size(1)
        var window_slots = cross_k.dim_size(1)
        var window_runs = len(window_starts) - 1
        var row_items = (len(row_starts) - 1) * self_caches.heads

        def run_layer(layer: Int, input: Pointer[Float32, ImmUntrackedOrigin]) {imm}:
            """Put a layer's output in y; `input` may be y, which is read no more by then."""
            var self_cache = self_caches
            self_cache.first += (layer - first_layer) * slots
            var cross_cache = cross_caches
            cross_cache.first += (layer - first_layer) * window_slots
            var query_ptr = all_queries.unsafe_offset((layer - first_layer) * n * state)
            var phase = PHASES * (layer - first_layer)

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

            norm_phase(
                words, units, mixed, input, self_norms.from_layer(layer), n, counters, phase
            )
            product_phase[BIAS](
                wide, words, units, qkvs.from_layer(layer), input, n, threads, counters, phase + 1
            )
            work_through(self_attention, row_items, counters, phase + 2)
            quantize_phase(words, units, mixed, n, state, counters, phase + 3)
            product_phase[BIAS_RESIDUAL](
                first, words, units, self_outs.from_layer(layer), input, n, threads, counters,
                phase + 4,
            )

            norm_phase(
                words, units, mixed, first, cross_norms.from_layer(layer), n, counters, phase + 5
            )
            product_phase[BIAS](
                query_ptr, words, units, qs.from_layer(layer), first, n, threads, counters, phase + 6
            )
            work_through(cross_attention, window_runs * cross_cache.heads, counters, phase + 7)
            quantize_phase(words, units, mixed, n, state, counters, phase + 8)
            product_phase[BIAS_RESIDUAL](
                second, words, units, cross_outs.from_layer(layer), first, n, threads, counters,
                phase + 9,
            )

            norm_phase(
                words, units, mixed, second, final_norms.from_layer(layer), n, counters, phase + 10
            )
            product_phase[BIAS_GELU](
                wide, words, units, fc1s.from_layer(layer), second, n, threads, counters, phase + 11
            )
            quantize_phase(words, units, wide, n, h, counters, phase + 12)
            product_phase[BIAS_RESIDUAL](
                y_ptr, words, units, fc2s.from_layer(layer), second, n, threads, counters, phase + 13
            )

        def task(t: Int) {imm}:
            run_layer(first_layer, untracked(x_ptr))
            for layer in range(first_layer + 1, end_layer):
                run_layer(layer, untracked(y_ptr))

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
