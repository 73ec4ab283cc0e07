"""The encoder's self-attention in 8-bit products with whole sums.

A unit of work is a run of queries of one head of one window, whose bytes head_bytes.mojo has made.
QUERIES at a time take the keys CHUNK by CHUNK: scores, a byte for each of
their exponentials (softmax_bytes.mojo), and the mix of the values, which is added to the one so far
(online softmax: Milakov and Gimelshein, 2018; FlashAttention: Dao et al., 2022; with 8-bit products:
SageAttention, Zhang et al., 2024). Bytes are relative to the highest of their own chunk, so that a
chunk of low ones is as fine as any. A row is divided by the sum of its bytes. A chunk becomes bytes
while the next one's scores are multiplied (byte_sums.mojo, `sum_bytes_beside`), which hides it.

Keys and weights are unsigned bytes; queries and values are signed ones, that fit where they have to
(quantized.mojo).
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.math import exp2, iota
from std.runtime import parallelism_level

from .attention import HEAD, LANES, MASKED
from .attention_int8 import KEY_BLOCK_BYTES, PARTS_OF_HEAD, Vector, key_units, value_units
from .byte_sums import sum_bytes, sum_bytes_beside
from .head_bytes import keys_of, padded_length, query_offsets, query_units, values_of
from .linear import larger
from .parallel import take_turn, turn_counters
from .quantized import AVX512_WORDS, BESIDE, F32, I32, U8, PairSums, Sums
from .softmax_bytes import (
    AT_ONCE,
    DITHERS,
    THRESHOLD,
    dither_pattern,
    power_table,
    weigh,
)

comptime QUERIES = 5 if AVX512_WORDS else 3
"""Queries of one tile: their sums with BLOCKS leave registers for what is done beside them."""
comptime BLOCKS = 4 if AVX512_WORDS else 1
"""Blocks of keys, or of a value's axes, multiplied together: see matmul_int8.mojo."""
comptime CHUNK = 256
"""Keys per chunk: the scores of a tile stay in the first-level cache."""
comptime SPLITS = 12
"""Items of work that a head's queries make, or more where there are more threads than heads."""
comptime PerRow = SIMD[F32, 8]
"""A number for each query of a tile."""
comptime LOG2_E = Float32(1.4426950408889634)


struct Chunk[rows: Int](Movable):
    """A tile's scores with some keys, the bytes they become and the sums of these."""

    var scores: List[Float32]
    var weights: List[UInt8]
    var sums: Array[PairSums, Self.rows]
    var units: PerRow
    var highest: PerRow
    var start: Int
    var size: Int

    def __init__(out self):
        self.scores = List[Float32](length=Self.rows * CHUNK, fill=0)
        self.weights = List[UInt8](length=Self.rows * CHUNK, fill=0)
        self.sums = Array[PairSums, length=Self.rows](fill=PairSums(0))
        self.units = PerRow(0)
        self.highest = PerRow(0)
        self.start = 0
        self.size = 0

    @always_inline
    def weigh(
        mut self, first: Int, last: Int,
        dithers: Pointer[Scalar[THRESHOLD], _], powers: Pointer[UInt16, _],
    ):
        """Make the bytes of the scores at first … last."""
        comptime for i in range(Self.rows):
            for at in range(first, last, AT_ONCE):
                weigh(
                    self.weights.unsafe_ptr().unsafe_offset(i * CHUNK + at),
                    self.sums.unsafe_ptr().unsafe_offset(i),
                    self.scores.unsafe_ptr().unsafe_offset(i * CHUNK + at),
                    self.units[i], self.highest[i], dithers.unsafe_offset(at % DITHERS), powers,
                )


struct Mix[rows: Int](Movable):
    """A tile's mix of values so far (online softmax)."""

    var mixed: Array[Float32, Self.rows * HEAD]
    var highest: PerRow
    var total: PerRow

    def __init__(out self):
        self.mixed = Array[Float32, length=Self.rows * HEAD](fill=0)
        self.highest = PerRow(MASKED)
        self.total = PerRow(0)

    @always_inline
    def add(mut self, values: Pointer[UInt8, _], chunk: Chunk[Self.rows], padded: Int):
        """Add the values of the chunk whose bytes are made, with their weights.

        Of what is mixed so far and what comes, the one with the lower maximum is worth less.
        """
        var sums = PerRow(0)
        comptime for i in range(Self.rows):
            sums[i] = Float32(chunk.sums[i].reduce_add())
        var less = exp2(-abs(chunk.highest - self.highest))
        var rises = chunk.highest.gt(self.highest)
        var rescale = rises.select(less, PerRow(1))
        var worth = rises.select(PerRow(1), less)
        self.highest = max(self.highest, chunk.highest)
        self.total = self.total.fma(rescale, sums * worth)
        var mixed = self.mixed.unsafe_ptr()
        for part in range(0, PARTS_OF_HEAD, BLOCKS):
            var columns = values.unsafe_offset((part * padded + chunk.start) * LANES)
            var products = sum_bytes[Self.rows, BLOCKS](
                chunk.weights.unsafe_ptr(), CHUNK, columns.bitcast[Int8](), padded * LANES, chunk.size
            )
            comptime for i in range(Self.rows):
                comptime for b in range(BLOCKS):
                    var at = i * HEAD + (part + b) * LANES
                    var so_far = mixed.unsafe_load[width=LANES](at) * rescale[i]
                    var more = products[i * BLOCKS + b].cast[F32]()
                    mixed.unsafe_store(at, more.fma(Vector(worth[i]), so_far))

    @always_inline
    def take(
        mut self, y: Pointer[mut=True, Float32, _], values: Pointer[UInt8, _], padded: Int, state: Int
    ):
        """Put the mix into y[rows, HEAD], rows `state` apart, and begin anew."""
        var unit = value_units(values, padded)
        var mixed = self.mixed.unsafe_ptr()
        comptime for i in range(Self.rows):
            var scale = 1.0 / self.total[i]
            comptime for part in range(PARTS_OF_HEAD):
                comptime at = part * LANES
                var result = mixed.unsafe_load[width=LANES](i * HEAD + at) * scale
                var middle = unit.unsafe_load[width=LANES](HEAD + at)
                y.unsafe_store(i * state + at, result.fma(unit.unsafe_load[width=LANES](at), middle))
                mixed.unsafe_store(i * HEAD + at, Vector(0))
        self.highest = PerRow(MASKED)
        self.total = PerRow(0)


@always_inline
def score_group[rows: Int, masked: Bool, weighing: Bool](
    mut chunk: Chunk[rows],
    highest: Pointer[mut=True, Vector, _],
    q: Pointer[Int8, _],
    offsets: Array[Int32, rows],
    keys: Pointer[mut=False, UInt8, _],
    at: Int,
    length: Int,
    mut before: Chunk[rows],
    dithers: Pointer[Scalar[THRESHOLD], _],
    powers: Pointer[UInt16, _],
):
    """Set the chunk's scores[rows, at … at + AT_ONCE), in units of their row's query; raise `highest`.

    q is [rows, HEAD]. Positions from `length` on are passed over where `masked`. Where `weighing`,
    the scores of as many keys of the chunk before become bytes meanwhile.
    """
    var t = chunk.start + at
    var block = keys.unsafe_offset(t // LANES * KEY_BLOCK_BYTES)
    var weights = before.weights.unsafe_ptr()
    var weight_sums = before.sums.unsafe_ptr()
    var old_scores = before.scores.unsafe_ptr()
    var units = before.units
    var tops = before.highest

    @always_inline
    def work(i: Int) {var weights, var weight_sums, var old_scores, var units, var tops, var dithers, var powers, var at}:
        comptime if weighing:
            weigh(
                weights.unsafe_offset(i * CHUNK + at), weight_sums.unsafe_offset(i),
                old_scores.unsafe_offset(i * CHUNK + at), units[i], tops[i],
                dithers.unsafe_offset(at % DITHERS), powers,
            )

    var new_scores = chunk.scores.unsafe_ptr()

    @always_inline
    def finish(i: Int, sums: Array[Sums, BLOCKS]) {var new_scores, var highest, var block, var at, var t, var length}:
        var top = highest[unsafe_offset=i]
        comptime for b in range(BLOCKS):
            var unit = key_units(block.unsafe_offset(b * KEY_BLOCK_BYTES))
            var s = sums[b].cast[F32]() * unit
            comptime if masked:
                var held = iota[I32, LANES](Int32(b * LANES)).lt(SIMD[I32, LANES](length - t))
                s = held.select(s, Vector(MASKED))
            new_scores.unsafe_store(i * CHUNK + at + b * LANES, s)
            top = larger[LANES](top, s)
        highest[unsafe_offset=i] = top

    sum_bytes_beside[rows, BLOCKS, HEAD](q, HEAD, block, KEY_BLOCK_BYTES, offsets, work, finish)


@always_inline
def attend_tiles[rows: Int](
    y: Pointer[mut=True, Float32, _],
    head: Pointer[mut=False, UInt8, _],
    dithers: Pointer[Scalar[THRESHOLD], _],
    powers: Pointer[UInt16, _],
    start: Int,
    tiles: Int,
    length: Int,
    padded: Int,
    state: Int,
):
    """Set y[tiles * rows, HEAD] (rows `state` apart) to the attention of a head's queries from `start` on.

    A chunk's scores become bytes while the next one's are multiplied (BESIDE), of whichever tile;
    then its values are mixed.
    """
    var q = head.unsafe_offset(start * HEAD).bitcast[Int8]()
    var q_units = query_units(head, padded).unsafe_offset(start)
    var q_offsets = query_offsets(head, padded).unsafe_offset(start)
    var keys = keys_of(head, padded)
    var values = values_of(head, padded)
    var offsets = Array[Int32, length=rows](fill=0)
    var units = PerRow(0)
    var mix = Mix[rows]()
    var chunk = Chunk[rows]()
    var before = Chunk[rows]()
    for tile in range(tiles):
        comptime for i in range(rows):
            units[i] = q_units[unsafe_offset=tile * rows + i] * LOG2_E
            offsets[i] = q_offsets[unsafe_offset=tile * rows + i]

        for first in range(0, length, CHUNK):
            chunk.start = first
            chunk.size = min(CHUNK, (length - first + AT_ONCE - 1) // AT_ONCE * AT_ONCE)
            chunk.units = units
            chunk.sums = Array[PairSums, length=rows](fill=PairSums(0))
            var highest = Array[Vector, length=rows](fill=Vector(MASKED))
            comptime if not BESIDE:
                before.weigh(0, before.size, dithers, powers)
            for at in range(0, chunk.size, AT_ONCE):
                if first + at + AT_ONCE <= length and (at < before.size or not BESIDE):
                    score_group[rows, masked=False, weighing=BESIDE](
                        chunk, highest.unsafe_ptr(), q.unsafe_offset(tile * rows * HEAD), offsets, keys, at, length,
                        before, dithers, powers,
                    )
                    continue
                comptime if BESIDE:
                    before.weigh(at, min(at + AT_ONCE, before.size), dithers, powers)
                score_group[rows, masked=True, weighing=False](
                    chunk, highest.unsafe_ptr(), q.unsafe_offset(tile * rows * HEAD), offsets, keys, at, length,
                    before, dithers, powers,
                )
            comptime if BESIDE:
                before.weigh(chunk.size, before.size, dithers, powers)
            comptime for i in range(rows):
                chunk.highest[i] = highest[i].reduce_max() * units[i]
            if before.size > 0:
                mix.add(values, before, padded)
                if first == 0:
                    mix.take(y.unsafe_offset((tile - 1) * rows * state), values, padded, state)
            swap(chunk, before)
    before.weigh(0, before.size, dithers, powers)
    mix.add(values, before, padded)
    mix.take(y.unsafe_offset((tiles - 1) * rows * state), values, padded, state)


@always_inline
def attend_windows_int8(
    mixed: Pointer[mut=True, Float32, _],
    heads_of_windows: Pointer[mut=False, UInt8, _],
    windows: Int,
    heads: Int,
    length: Int,
    size: Int,
) raises:
    """Compute mixed[windows, length, heads * HEAD] = attention of the bytes [windows, heads, size]."""
    comptime assert CHUNK % AT_ONCE == 0 and AT_ONCE == BLOCKS * LANES
    var state = heads * HEAD
    var padded = padded_length(length)
    var pairs = windows * heads
    var threads = parallelism_level()
    var splits = max(SPLITS, (threads + pairs - 1) // pairs)
    var tiles = (length + QUERIES - 1) // QUERIES
    var items = pairs * splits
    var tasks = min(threads, items)
    var counter_list = turn_counters(items, tasks)
    var counters = counter_list.unsafe_ptr()

    def task(t: Int) {var counters, var length, var state, var heads, var size, var padded, var splits, var tiles, var items, var tasks, var heads_of_windows, var mixed}:
        var dither_list = dither_pattern()
        var power_list = power_table()
        var dithers = dither_list.unsafe_ptr()
        var powers = power_list.unsafe_ptr()
        var turn = take_turn(counters, items, tasks, t)
        while turn[0] < turn[1]:
            var pair = turn[0] // splits
            var split = turn[0] % splits
            var head = heads_of_windows.unsafe_offset(pair * size)
            var y = mixed.unsafe_offset(pair // heads * length * state + pair % heads * HEAD)
            var i = (tiles * split // splits) * QUERIES
            var last = min((tiles * (split + 1) // splits) * QUERIES, length)
            var whole = (last - i) // QUERIES
            if whole > 0:
                attend_tiles[QUERIES](
                    y.unsafe_offset(i * state), head, dithers, powers, i, whole, length, padded, state
                )
                i += whole * QUERIES
            if i < last:
                attend_tiles[1](
                    y.unsafe_offset(i * state), head, dithers, powers, i, last - i, length, padded,
                    state,
                )
            turn = take_turn(counters, items, tasks, t)
        _ = dither_list^
        _ = power_list^

    sync_parallelize(task, tasks)
    _ = counter_list^


@extensibility.register("mwc_encoder_attention_int8")
struct EncoderAttentionInt8:
    """mixed[b, t, state] = attention of the heads' bytes [b, heads, size], as in head_bytes.mojo."""

    @staticmethod
    def execute[target: StaticString](
        mixed: OutputTensor[dtype=F32, rank=3, ...],
        heads: InputTensor[dtype=U8, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        attend_windows_int8(
            mixed.unsafe_ptr(), heads.unsafe_ptr(), heads.dim_size(0), heads.dim_size(1),
            mixed.dim_size(1), heads.dim_size(2),
        )
