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
from .linear import BIAS, BIAS_GELU, BIAS_RESIDUAL, layer_norm_rows
from .linear_int8 import blocks_of, multiply_blocks, quantize_rows, term_groups
from .parallel import phase_counters, work_through
from .pointers import Numbers, Room, Values, untracked, untracked_mut
from .quantized import COLUMNS, GROUP_TERMS, TERMS

comptime F32 = DType.float32
comptime I32 = DType.int32
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


@fieldwise_init
struct LayerWeights(Copyable, ImplicitlyCopyable, Movable):
    """The weights of decoder layers, in the order of their use."""

    var self_norms: Norms
    var qkvs: Linears
    var self_outs: Linears
    var cross_norms: Norms
    var qs: Linears
    var cross_outs: Linears
    var final_norms: Norms
    var fc1s: Linears
    var fc2s: Linears


@fieldwise_init
struct LayerCaches[KV: DType](Copyable, ImplicitlyCopyable, Movable):
    """The caches of decoder layers, as those of the first one that runs."""

    var self_k: Pointer[Scalar[Self.KV], MutUntrackedOrigin]
    var self_v: Pointer[Scalar[Self.KV], MutUntrackedOrigin]
    var cross_k: Pointer[UInt8, ImmUntrackedOrigin]
    var cross_v: Pointer[UInt8, ImmUntrackedOrigin]
    var self_shape: CacheShape
    var cross_shape: ByteCacheShape
    var row_slots: Int
    var window_slots: Int


@always_inline
def caches_of[KV: DType, //](
    self_k: MutableInputTensor[dtype=KV, rank=6, ...],
    self_v: MutableInputTensor[dtype=KV, rank=5, ...],
    cross_k: MutableInputTensor[dtype=U8, rank=5, ...],
    cross_v: MutableInputTensor[dtype=U8, rank=4, ...],
    layers: InputTensor[dtype=I32, rank=1, ...],
) -> LayerCaches[KV]:
    """The caches of the layers from the first of `layers` on."""
    return LayerCaches[KV](
        untracked_mut(self_k.unsafe_ptr()), untracked_mut(self_v.unsafe_ptr()),
        untracked(cross_k.unsafe_ptr()), untracked(cross_v.unsafe_ptr()),
        shape_of(self_k, self_v, layers), byte_shape_of(cross_k, cross_v, layers),
        self_k.dim_size(1), cross_k.dim_size(1),
    )


struct DecoderLayers[KV: DType, length: Int](Movable):
    """Decoder layers over n tokens whose windows have `length` positions, and what they work in.

    All threads `work` through the `PHASES` of one layer after the other together.
    """

    comptime PHASES = 14

    var weights: LayerWeights
    var caches: LayerCaches[Self.KV]
    var rows: Pointer[Int32, ImmUntrackedOrigin]
    var positions: Pointer[Int32, ImmUntrackedOrigin]
    var windows: Pointer[Int32, ImmUntrackedOrigin]
    var n: Int
    var first_layer: Int
    var end_layer: Int
    var threads: Int
    var row_starts: List[Int]
    var window_starts: List[Int]
    # Queries, keys and values, later the hidden values; what attention mixed; x after each attention.
    var wide: Room[Float32]
    var mixed: Room[Float32]
    var first: Room[Float32]
    var second: Room[Float32]
    # Activations as the products take them.
    var words: Room[Int16]
    var units: Room[Float32]

    def __init__(
        out self,
        weights: LayerWeights,
        caches: LayerCaches[Self.KV],
        rows: Pointer[Int32, ImmUntrackedOrigin],
        positions: Pointer[Int32, ImmUntrackedOrigin],
        windows: Pointer[Int32, ImmUntrackedOrigin],
        n: Int,
        first_layer: Int,
        end_layer: Int,
    ):
        """Of the layers from the first one to before the end; `caches` are those of the first one."""
        var state = weights.self_norms.k
        var h = weights.fc1s.n
        self.weights = weights
        self.caches = caches
        self.rows = rows
        self.positions = positions
        self.windows = windows
        self.n = n
        self.first_layer = first_layer
        self.end_layer = end_layer
        self.threads = 1 if n * state * state < SERIAL_LAYER else parallelism_level()
        self.row_starts = runs_of(rows, n, n)
        self.window_starts = runs_of(windows, n, TOGETHER_INT8)
        self.wide = Room[Float32](n * max(3 * state, h))
        self.mixed = Room[Float32](n * state)
        self.first = Room[Float32](n * state)
        self.second = Room[Float32](n * state)
        self.words = Room[Int16](n * max(state, h))
        self.units = Room[Float32](n)

    def phases(self) -> Int:
        """Those of all layers."""
        return Self.PHASES * (self.end_layer - self.first_layer)

    @always_inline
    def work(
        self,
        y: Numbers,
        x: Values,
        queries: Numbers,
        counters: Pointer[mut=True, Int64, _],
        phase: Int,
    ):
        """Put what the layers make of x [n, state] in y, which may be x, and their queries [n, state].

        The queries of a layer's cross-attention stand behind those of the one before. Phases are
        counted from `phase` on.
        """
        var size = self.n * self.weights.self_norms.k
        self.run_layer(self.first_layer, y, x, queries, counters, phase)
        for i in range(1, self.end_layer - self.first_layer):
            self.run_layer(
                self.first_layer + i, y, untracked(y), queries.unsafe_offset(i * size), counters,
                phase + i * Self.PHASES,
            )

    def run_layer(
        self,
        layer: Int,
        y: Numbers,
        x: Values,
        queries: Numbers,
        counters: Pointer[mut=True, Int64, _],
        phase: Int,
    ):
        """One layer; x is read no more when y is written."""
        var w = self.weights
        var caches = self.caches
        caches.self_shape.first += (layer - self.first_layer) * caches.row_slots
        caches.cross_shape.first += (layer - self.first_layer) * caches.window_slots
        var n = self.n
        var state = w.self_norms.k
        var threads = self.threads
        var wide = self.wide.at
        var mixed = self.mixed.at
        var first = self.first.at
        var second = self.second.at
        var words = self.words.at
        var units = self.units.at
        var window_runs = len(self.window_starts) - 1
        var row_items = (len(self.row_starts) - 1) * caches.self_shape.heads

        def self_attention(item: Int) {imm}:
            # The item after those that other threads are at.
            self_attend_run[Self.KV](
                mixed, caches.self_k, caches.self_v, wide, self.rows, self.positions,
                self.row_starts.unsafe_ptr(), item, min(item + threads, row_items - 1),
                caches.self_shape,
            )

        def cross_attention(item: Int) {imm}:
            attend_run(
                mixed, caches.cross_k, caches.cross_v, queries, self.windows,
                self.window_starts.unsafe_ptr(), window_runs, item, Self.length, caches.cross_shape,
            )

        norm_phase(words, units, mixed, x, w.self_norms.from_layer(layer), n, counters, phase)
        product_phase[BIAS](
            wide, words, units, w.qkvs.from_layer(layer), x, n, threads, counters, phase + 1
        )
        work_through(self_attention, row_items, counters, phase + 2)
        quantize_phase(words, units, mixed, n, state, counters, phase + 3)
        product_phase[BIAS_RESIDUAL](
            first, words, units, w.self_outs.from_layer(layer), x, n, threads, counters, phase + 4
        )

        norm_phase(words, units, mixed, first, w.cross_norms.from_layer(layer), n, counters, phase + 5)
        product_phase[BIAS](
            queries, words, units, w.qs.from_layer(layer), first, n, threads, counters, phase + 6
        )
        work_through(cross_attention, window_runs * caches.cross_shape.heads, counters, phase + 7)
        quantize_phase(words, units, mixed, n, state, counters, phase + 8)
        product_phase[BIAS_RESIDUAL](
            second, words, units, w.cross_outs.from_layer(layer), first, n, threads, counters, phase + 9
        )

        norm_phase(
            words, units, mixed, second, w.final_norms.from_layer(layer), n, counters, phase + 10
        )
        product_phase[BIAS_GELU](
            wide, words, units, w.fc1s.from_layer(layer), second, n, threads, counters, phase + 11
        )
        quantize_phase(words, units, wide, n, w.fc1s.n, counters, phase + 12)
        product_phase[BIAS_RESIDUAL](
            y, words, units, w.fc2s.from_layer(layer), second, n, threads, counters, phase + 13
        )


@extensibility.register("mwc_decoder_layers_int8")
struct DecoderLayersInt8:
    """Self-attention, cross-attention and feed-forward of n tokens x f32 [n, state], layer after layer.

    The first four inputs are the caches, as for mwc_self_attention and mwc_cross_attention_int8
    with its `length`, then rows, positions and windows int32 [n], and layers int32 [2]: the first
    one, and the one after the last. The rest are the weights of all layers in the order of their use,
    with the layers as first axis: a norm is (gamma, beta), a linear layer (w, scale, group_scale, bias)
    as in quantized.mojo. Outputs: x after the layers, and the queries of their cross-attention
    [layers that run, n, state].
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
        var weights = LayerWeights(
            norms_of(self_gamma, self_beta),
            linears_of(qkv_w, qkv_scale, qkv_group_scale, qkv_bias),
            linears_of(self_out_w, self_out_scale, self_out_group_scale, self_out_bias),
            norms_of(cross_gamma, cross_beta),
            linears_of(q_w, q_scale, q_group_scale, q_bias),
            linears_of(cross_out_w, cross_out_scale, cross_out_group_scale, cross_out_bias),
            norms_of(final_gamma, final_beta),
            linears_of(fc1_w, fc1_scale, fc1_group_scale, fc1_bias),
            linears_of(fc2_w, fc2_scale, fc2_group_scale, fc2_bias),
        )
        var together = DecoderLayers[KV, length](
            weights, caches_of(self_k, self_v, cross_k, cross_v, layers),
            untracked(rows.unsafe_ptr()), untracked(positions.unsafe_ptr()),
            untracked(windows.unsafe_ptr()), x.dim_size(0),
            Int(layers.unsafe_ptr()[unsafe_offset=0]), Int(layers.unsafe_ptr()[unsafe_offset=1]),
        )
        var y_ptr = untracked_mut(y.unsafe_ptr())
        var x_ptr = untracked(x.unsafe_ptr())
        var query_ptr = untracked_mut(queries.unsafe_ptr())
        var counter_list = phase_counters(together.phases())
        var counters = counter_list.unsafe_ptr()

        def task(t: Int) {imm}:
            together.work(y_ptr, x_ptr, query_ptr, counters, 0)

        if together.threads == 1:
            task(0)
        else:
            sync_parallelize(task, together.threads)
        _ = together^
        _ = counter_list^
