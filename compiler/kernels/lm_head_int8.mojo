"""The token embedding of int8 artifacts: rows of it, the LM head, and the LM head through a sieve.

The embedding is most of what a small model reads for each token, and of its 50,000 logits a choice
looks at a few. So its bytes are kept as halves: w = 16 h + l, with h from -8 to 7 in one plane and
l from 0 to 15 in the other, each uint8 [n / 16, k / 8, 16, 4]. Of eight terms the first four are the
lower halves of a plane's bytes and the next four the upper ones; h is stored as h + 8.

The sieve takes h alone, l as its middle 7.5, and activations in 8 bits. What that leaves out is the
sum of as many roundings as there are terms, so it is known how far a logit can be off: SPREAD
standard deviations. Blocks of columns that may hold one of the best `wanted` logits that may be
chosen are then multiplied in full, as are all from eot on, which the rules compare with each other.
So every logit that can be chosen is the one that the whole product gives, and half of the bytes are
not read. The others are off by about 0.4 (tiny.en), which moves a log-probability by 0.003
(benchmarks/cpu-floor.md).

A row's logits depend on itself and its `wanted` only; sums are whole numbers, as everywhere.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.math import sqrt
from std.memory import bitcast
from std.runtime import parallelism_level
from std.utils.numerics import neg_inf

from .linear import NONE, WIDTH, layer_norm_rows
from .linear_int8 import (
    SERIAL_WORK_INT8,
    blocks_of,
    load_part,
    multiply_block,
    quantize_rows,
    store_part,
)
from .parallel import phase_counters, share, work_through
from .quantized import (
    COLUMNS,
    F32,
    I32,
    I8,
    PAIRS,
    PIECES,
    REGISTER,
    STEP,
    TERMS,
    U8,
    VNNI,
    PairSums,
    Sums,
    Words,
    broadcast_signed,
    dot_four_bytes,
    dot_pairs,
    fetch_ahead,
    largest_magnitude,
    multiply_pairs,
    quantize_words,
)
from .rules import N_SAMPLED, STATE_SIZE

comptime OCTET = 2 * TERMS
"""Terms whose halves fill a register's bytes."""
comptime RUN = 4 * OCTET
"""Terms whose products are added in 16 bits: 32 of 15 · 127, two by two, fill a lane."""
comptime TOGETHER = 4
"""Rows that the sieve multiplies together."""
comptime HALF_OFFSET = 8
"""What is added to an upper half to store it."""
comptime BYTE_TOP = 127
comptime SPREAD = Float32(6)
"""Standard deviations that a sieved logit may be off by: one of a thousand million is more."""
comptime HALF_VARIANCE = Float32(21.25)
"""Of a lower half, any of 0 … 15: (16² - 1) / 12."""
comptime MOST_SQUARE = Float32(64 * 64)
"""More than the mean square of an embedding's bytes."""
comptime SHARES = 16
"""Parts of the vocabulary for each thread."""


@always_inline
def join_block(
    w: Pointer[mut=True, Int8, _], high: Pointer[UInt8, _], low: Pointer[UInt8, _], k: Int
):
    """Put a block's halves together: [k / 4, 16, 4], as quantized.mojo has it."""
    for octet in range(k // OCTET):
        var h = high.unsafe_load[width=STEP](octet * STEP)
        var l = low.unsafe_load[width=STEP](octet * STEP)
        var first = ((h & 15) << 4) | (l & 15)
        var second = (h & 240) | (l >> 4)
        w.unsafe_store(2 * octet * STEP, bitcast[I8, STEP](first ^ 128))
        w.unsafe_store((2 * octet + 1) * STEP, bitcast[I8, STEP](second ^ 128))


@always_inline
def sum_halves[rows: Int](
    x: Pointer[Int8, _], high: Pointer[UInt8, _], k: Int
) -> Array[Sums, rows]:
    """The sums of x[rows, k] over one block of upper halves as they are stored; 32 divides k."""
    var whole = Array[Sums, length=rows](fill=Sums(0))
    comptime for piece in range(PIECES):
        var sums = Array[PairSums, length=rows](fill=PairSums(0))
        for c in range(0, k, RUN):
            var run = Array[Words, length=rows](fill=Words(0))
            comptime for at in range(0, RUN, OCTET):
                var from_here = high.unsafe_offset((c + at) // OCTET * STEP + piece * REGISTER)
                comptime if piece == 0:
                    fetch_ahead(from_here.bitcast[Int8]())
                var bytes = from_here.unsafe_load[width=REGISTER](0)
                var first = bytes & 15
                var second = bytes >> 4
                comptime for i in range(rows):
                    var terms = x.unsafe_offset(i * k + c + at)
                    var a = broadcast_signed(terms)
                    var b = broadcast_signed(terms.unsafe_offset(TERMS))
                    comptime if VNNI:
                        sums[i] = dot_four_bytes(dot_four_bytes(sums[i], first, a), second, b)
                    else:
                        run[i] += multiply_pairs(first, a) + multiply_pairs(second, b)
            comptime if not VNNI:
                comptime for i in range(rows):
                    sums[i] = dot_pairs(sums[i], run[i], Words(1))
        comptime for i in range(rows):
            whole[i] = whole[i].insert[offset=piece * PAIRS](sums[i])
    return whole^


@fieldwise_init
struct Sieve(Copyable, Movable):
    """How a row's sieved sums stand for logits, before a column's scale: and how far off they are."""

    var unit: Float32
    var total: Int32
    var spread: Float32


@always_inline
def sieve_row(y: Pointer[mut=True, Int8, _], x: Pointer[Float32, _], k: Int) -> Sieve:
    """Round a row of k values to 8 bits."""
    var unit = largest_magnitude(x, k) / BYTE_TOP
    var inverse = 1 / unit if unit > 0 else Float32(0)
    var totals = SIMD[I32, WIDTH](0)
    var squares = SIMD[F32, WIDTH](0)
    for c in range(0, k, WIDTH):
        var values = x.unsafe_load[width=WIDTH](c)
        var units = round(values * inverse).cast[I32]()
        totals += units
        squares = values.fma(values, squares)
        y.unsafe_store(c, units.cast[I8]())
    var rounding = Float32(k) * MOST_SQUARE / 12 * unit * unit
    var variance = HALF_VARIANCE.fma(squares.reduce_add(), rounding)
    return Sieve(unit, totals.reduce_add(), SPREAD * sqrt(variance))


@always_inline
def kth_largest(values: Pointer[Float32, _], count: Int, k: Int) -> Float32:
    """The k-th largest of the values; -inf where k is 0 or there are fewer."""
    if k <= 0 or k > count:
        return neg_inf[F32]()
    var best_list = List[Float32](length=k, fill=neg_inf[F32]())
    var best = best_list.unsafe_ptr()
    for i in range(count):
        var value = values[unsafe_offset=i]
        if not value > best[unsafe_offset=k - 1]:
            continue
        var at = k - 1
        while at > 0 and best[unsafe_offset=at - 1] < value:
            best[unsafe_offset=at] = best[unsafe_offset=at - 1]
            at -= 1
        best[unsafe_offset=at] = value
    var found = best[unsafe_offset=k - 1]
    _ = best_list^
    return found


@always_inline
def normed_rows(
    x: Pointer[Float32, _],
    gamma: Pointer[Float32, _],
    beta: Pointer[Float32, _],
    columns: Pointer[Float32, _],
    m: Int,
    k: Int,
) -> List[Float32]:
    """layer_norm(x[m, k]) * columns[k]."""
    var normed_list = List[Float32](length=m * k, fill=0)
    var normed = normed_list.unsafe_ptr()
    layer_norm_rows(normed, x, gamma, beta, m, k)
    for i in range(m):
        for c in range(0, k, WIDTH):
            var scaled = normed.unsafe_load[width=WIDTH](i * k + c)
            normed.unsafe_store(i * k + c, scaled * columns.unsafe_load[width=WIDTH](c))
    return normed_list^


@always_inline
def all_logits(
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    high: Pointer[UInt8, _],
    low: Pointer[UInt8, _],
    scale: Pointer[mut=False, Float32, _],
    m: Int,
    n: Int,
    k: Int,
) raises:
    """Compute y[m, n] = x[m, k] · wᵀ, all of it."""
    var word_list = List[Int16](length=m * k, fill=0)
    var unit_list = List[Float32](length=m, fill=0)
    var words = word_list.unsafe_ptr()
    var units = unit_list.unsafe_ptr()
    quantize_rows(words, units, x, 0, m, m, k)
    var blocks = blocks_of(n)
    var serial = m * n * k < SERIAL_WORK_INT8
    var parts = 1 if serial else min(parallelism_level(), blocks)

    def part(item: Int) raises {imm}:
        var joined = List[Int8](length=COLUMNS * k, fill=0)
        for block in range(blocks * item // parts, blocks * (item + 1) // parts):
            var at = block * COLUMNS * k // 2
            join_block(joined.unsafe_ptr(), high.unsafe_offset(at), low.unsafe_offset(at), k)
            multiply_block[NONE](
                y, words, units, joined.unsafe_ptr(), scale, scale, x, block, m, n, k
            )
        _ = joined^

    share(part, parts, serial=serial)
    _ = word_list^
    _ = unit_list^


@extensibility.register("mwc_norm_logits_int8")
struct NormLogitsInt8:
    """y[m, n] = (layer_norm(x[m, k]) * column_scale[k]) · wᵀ: the LM head, in full.

    w uint8 [2, n / 16, k / 8, 16, 4]: the token embedding's upper and lower halves, without the
    scales of its rows and columns.
    """

    @staticmethod
    def execute[target: StaticString](
        y: OutputTensor[dtype=F32, rank=2, ...],
        x: InputTensor[dtype=F32, rank=2, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w: InputTensor[dtype=U8, rank=5, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        column_scale: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var m = x.dim_size(0)
        var n = y.dim_size(1)
        var k = x.dim_size(1)
        var high = w.unsafe_ptr()
        var low = high.unsafe_offset(blocks_of(n) * COLUMNS * k // 2)
        var normed = normed_rows(
            x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(), column_scale.unsafe_ptr(), m, k
        )
        all_logits(y.unsafe_ptr(), normed.unsafe_ptr(), high, low, scale.unsafe_ptr(), m, n, k)
        _ = normed^


@always_inline
def likely_logits(
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    high: Pointer[UInt8, _],
    low: Pointer[UInt8, _],
    scale: Pointer[mut=False, Float32, _],
    wanted: Pointer[Int32, _],
    suppress: Pointer[Float32, _],
    states: Pointer[Int32, _],
    eot: Int,
    m: Int,
    n: Int,
    k: Int,
) raises:
    """Compute y[m, n] = x[m, k] · wᵀ through the sieve; what the pointers are, the operation says."""
    var blocks = blocks_of(n)
    var sieved = min(eot, n) // COLUMNS
    var most = Int32(0)
    for i in range(m):
        most = max(most, wanted[unsafe_offset=i])
    if most == 0:
        all_logits(y, x, high, low, scale, m, n, k)
        return

    var byte_list = List[Int8](length=m * k, fill=0)
    var word_list = List[Int16](length=m * k, fill=0)
    var unit_list = List[Float32](length=m, fill=0)
    var sieve_list = List[Sieve](capacity=m)
    for i in range(m):
        var row = x.unsafe_offset(i * k)
        sieve_list.append(sieve_row(byte_list.unsafe_ptr().unsafe_offset(i * k), row, k))
        unit_list[i] = quantize_words(word_list.unsafe_ptr().unsafe_offset(i * k), row, k, 1)
    # Of each row and block, what the best that may be chosen is at least and at most.
    var least_list = List[Float32](length=m * sieved, fill=0)
    var most_list = List[Float32](length=m * sieved, fill=0)
    var bar_list = List[Float32](length=m, fill=0)
    var bytes = byte_list.unsafe_ptr()
    var words = word_list.unsafe_ptr()
    var units = unit_list.unsafe_ptr()
    var sieves = sieve_list.unsafe_ptr()
    var leasts = least_list.unsafe_ptr()
    var mosts = most_list.unsafe_ptr()
    var bars = bar_list.unsafe_ptr()

    var threads = 1 if m * n * k < SERIAL_WORK_INT8 else parallelism_level()
    var parts = min(SHARES * threads, blocks)
    var counter_list = phase_counters(3)
    var counters = counter_list.unsafe_ptr()

    @always_inline
    def sieve_rows[rows: Int](first: Int, block: Int) {imm}:
        var at = block * COLUMNS
        var sums = sum_halves[rows](
            bytes.unsafe_offset(first * k), high.unsafe_offset(at * k // 2), k
        )
        var scales = scale.unsafe_load[width=COLUMNS](at)
        comptime for i in range(rows):
            var row = first + i
            var sieve = sieves.unsafe_offset(row)
            # Twice 16 h + 7.5, in whole numbers.
            var doubled = 32 * sums[i] - (32 * HALF_OFFSET - 15) * sieve[].total
            var values = doubled.cast[F32]() * (0.5 * sieve[].unit) * scales
            y.unsafe_store(row * n + at, values)
            var first_token = states[unsafe_offset=row * STATE_SIZE + N_SAMPLED] == 0
            var mask = suppress.unsafe_offset(n if first_token else 0)
            values += mask.unsafe_load[width=COLUMNS](at)
            var off = scales * sieve[].spread
            leasts[unsafe_offset=row * sieved + block] = (values - off).reduce_max()
            mosts[unsafe_offset=row * sieved + block] = (values + off).reduce_max()

    def sieve_part(part: Int) {imm}:
        for block in range(sieved * part // parts, sieved * (part + 1) // parts):
            var row = 0
            while row + TOGETHER <= m:
                sieve_rows[TOGETHER](row, block)
                row += TOGETHER
            while row < m:
                sieve_rows[1](row, block)
                row += 1

    def set_bar(row: Int) {imm}:
        var count = Int(wanted[unsafe_offset=row])
        bars[unsafe_offset=row] = kth_largest(leasts.unsafe_offset(row * sieved), sieved, count)

    def fill_part(part: Int) {imm}:
        var joined = List[Int8](length=COLUMNS * k, fill=0)
        for block in range(blocks * part // parts, blocks * (part + 1) // parts):
            var ready = False
            for row in range(m):
                if block < sieved:
                    if mosts[unsafe_offset=row * sieved + block] < bars[unsafe_offset=row]:
                        continue
                var at = block * COLUMNS * k // 2
                if not ready:
                    join_block(
                        joined.unsafe_ptr(), high.unsafe_offset(at), low.unsafe_offset(at), k
                    )
                    ready = True
                multiply_block[NONE](
                    y.unsafe_offset(row * n), words.unsafe_offset(row * k),
                    units.unsafe_offset(row), joined.unsafe_ptr(), scale, scale, x, block, 1, n, k,
                )
        _ = joined^

    def task(t: Int) {imm}:
        work_through(sieve_part, parts, counters, 0)
        work_through(set_bar, m, counters, 1)
        work_through(fill_part, parts, counters, 2)

    if threads == 1:
        task(0)
    else:
        sync_parallelize(task, threads)
    _ = byte_list^
    _ = word_list^
    _ = unit_list^
    _ = sieve_list^
    _ = least_list^
    _ = most_list^
    _ = bar_list^
    _ = counter_list^


@extensibility.register("mwc_norm_likely_logits_int8")
struct NormLikelyLogitsInt8:
    """y[m, n] as of mwc_norm_logits_int8, through the sieve.

    `wanted` int32 [m]: how many of a row's best logits are asked for; with 0 all are computed in
    full. `suppress` f32 [2, n] and `states` int32 [m, 6] are as for mwc_choose: what is suppressed
    is not among the best. From `eot` int32 [1] on all are computed in full. 32 divides k.
    """

    @staticmethod
    def execute[target: StaticString](
        y: OutputTensor[dtype=F32, rank=2, ...],
        x: InputTensor[dtype=F32, rank=2, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w: InputTensor[dtype=U8, rank=5, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        column_scale: InputTensor[dtype=F32, rank=1, ...],
        wanted: InputTensor[dtype=I32, rank=1, ...],
        suppress: InputTensor[dtype=F32, rank=2, ...],
        states: InputTensor[dtype=I32, rank=2, ...],
        eot: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var m = x.dim_size(0)
        var n = y.dim_size(1)
        var k = x.dim_size(1)
        var high = w.unsafe_ptr()
        var low = high.unsafe_offset(blocks_of(n) * COLUMNS * k // 2)
        var normed = normed_rows(
            x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(), column_scale.unsafe_ptr(), m, k
        )
        likely_logits(
            y.unsafe_ptr(), normed.unsafe_ptr(), high, low, scale.unsafe_ptr(), wanted.unsafe_ptr(),
            suppress.unsafe_ptr(), states.unsafe_ptr(), Int(eot.unsafe_ptr()[unsafe_offset=0]),
            m, n, k,
        )
        _ = normed^


@extensibility.register("mwc_embed_int8")
struct EmbedInt8:
    """x[m, k] = the token's row of w + the position's row of `table` f32 [n_ctx, k].

    w as for mwc_norm_logits_int8.
    """

    @staticmethod
    def execute[target: StaticString](
        x: OutputTensor[dtype=F32, rank=2, ...],
        tokens: InputTensor[dtype=I32, rank=1, ...],
        positions: InputTensor[dtype=I32, rank=1, ...],
        w: InputTensor[dtype=U8, rank=5, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        column_scale: InputTensor[dtype=F32, rank=1, ...],
        table: InputTensor[dtype=F32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var k = x.dim_size(1)
        var plane = blocks_of(scale.dim_size(0)) * COLUMNS * k // 2
        for i in range(x.dim_size(0)):
            var token = Int(tokens.unsafe_ptr()[unsafe_offset=i])
            var position = Int(positions.unsafe_ptr()[unsafe_offset=i])
            var unit = scale.unsafe_ptr()[unsafe_offset=token]
            var lane = token % COLUMNS
            var halves = w.unsafe_ptr().unsafe_offset((token - lane) * k // 2 + lane * TERMS)
            var at = table.unsafe_ptr().unsafe_offset(position * k)
            var row = x.unsafe_ptr().unsafe_offset(i * k)

            @always_inline
            def put(c: Int, bytes: SIMD[U8, TERMS]) {imm}:
                var whole = bytes.cast[I32]() - 128
                var columns = column_scale.unsafe_ptr().unsafe_load[width=TERMS](c) * unit
                row.unsafe_store(c, whole.cast[F32]() * columns + at.unsafe_load[width=TERMS](c))

            for octet in range(k // OCTET):
                var h = halves.unsafe_load[width=TERMS](octet * STEP)
                var l = halves.unsafe_load[width=TERMS](plane + octet * STEP)
                put(octet * OCTET, ((h & 15) << 4) | (l & 15))
                put(octet * OCTET + TERMS, (h & 240) | (l >> 4))
