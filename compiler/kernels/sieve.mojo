"""The best of many logits without reading all of the weights: a sieve of half-bytes.

The sieve takes the upper halves alone (half_bytes.mojo), the lower ones as their middle 7.5, and
activations in 8 bits. What that leaves out is the sum of as many roundings as there are terms, so it
is known how far a logit can be off: SPREAD standard deviations of the token whose bytes allow most,
and what the mean of its lower halves adds to all terms alike. The blocks that promise the best
`wanted` logits that may be chosen are then multiplied in full, then those that may hold better
ones, as are all from eot on, which the rules compare with each other. So every logit that can be
chosen is the one that the whole product gives, and half of the bytes are not read. The others are
off by about 0.4 (tiny.en), which moves a log-probability by 0.009 (benchmarks/cpu-floor.md).

A row's logits depend on itself and its `wanted` only; sums are whole numbers, as everywhere.
"""

from max.algorithm import sync_parallelize
from std.math import sqrt
from std.runtime import parallelism_level
from std.utils.numerics import inf, neg_inf

from .half_bytes import HALF_OFFSET, join_block, sum_halves
from .linear import NONE, WIDTH, larger
from .linear_int8 import SERIAL_WORK_INT8, blocks_of, multiply_block, quantize_rows
from .parallel import phase_counters, share, work_through
from .quantized import COLUMNS, F32, I8, I32, VNNI, largest_magnitude, quantize_words
from .rules import N_SAMPLED, STATE_SIZE

comptime TOGETHER = 4
"""Rows that the sieve multiplies together."""
comptime WITH_ROWS = 2 if VNNI else 1
"""Blocks that it multiplies them with: an instruction of VNNI waits for the sum of the one before,
so that eight sums have to be on their way. Others have enough with one block."""
comptime WITH_ONE = 4 if VNNI else 1
"""Blocks that it multiplies a row with that is left over."""
comptime BYTE_TOP = 127
comptime SPREAD = Float32(6)
"""Standard deviations that a sieved logit may be off by: one of a thousand million is more."""
comptime HALF_VARIANCE = 0
"""Which of the bounds is the most that any token has as mean square of its lower halves less 7.5:
21.25 where all are as likely, 25.2 in tiny.en and base."""
comptime BYTE_SQUARE = 1
"""Which is the most mean square of a token's bytes: 52² in tiny.en, 70² in base."""
comptime HALF_MEAN = 2
"""Which is the farthest that the mean of a token's lower halves is from 7.5: 1.1 and 0.9."""
comptime SHARES = 16
"""Parts of the vocabulary for each thread."""
comptime GROUP = 32
"""Blocks that are sieved by one thread, however many there are: of each group and lane the best
logit counts where the bar is set."""


@fieldwise_init
struct Sieve(Copyable, Movable):
    """How a row's sieved sums stand for logits, before a column's scale: and how far off they are."""

    var unit: Float32
    var total: Int32
    var spread: Float32


@always_inline
def sieve_row(
    y: Pointer[mut=True, Int8, _], x: Pointer[Float32, _], bounds: Pointer[Float32, _], k: Int
) -> Sieve:
    """Round a row of k values to 8 bits."""
    var unit = largest_magnitude(x, k) / BYTE_TOP
    var inverse = 1 / unit if unit > 0 else Float32(0)
    var totals = SIMD[I32, WIDTH](0)
    var squares = SIMD[F32, WIDTH](0)
    var sums = SIMD[F32, WIDTH](0)
    for c in range(0, k, WIDTH):
        var values = x.unsafe_load[width=WIDTH](c)
        var units = round(values * inverse).cast[I32]()
        totals += units
        squares = values.fma(values, squares)
        sums += values
        y.unsafe_store(c, units.cast[I8]())
    var rounding = Float32(k) * bounds[unsafe_offset=BYTE_SQUARE] / 12 * unit * unit
    var variance = bounds[unsafe_offset=HALF_VARIANCE].fma(squares.reduce_add(), rounding)
    var shift = bounds[unsafe_offset=HALF_MEAN] * abs(sums.reduce_add())
    return Sieve(unit, totals.reduce_add(), SPREAD.fma(sqrt(variance), shift))


@always_inline
def largest_places(values: Pointer[Float32, _], count: Int, k: Int) -> List[Int]:
    """Where the k largest of the values are, the largest first; of -inf and NaN none."""
    var places = List[Int](capacity=k)
    for i in range(count):
        var value = values[unsafe_offset=i]
        if not value > neg_inf[F32]():
            continue
        if len(places) == k:
            if not value > values[unsafe_offset=places[k - 1]]:
                continue
            _ = places.pop()
        var at = len(places)
        while at > 0 and values[unsafe_offset=places[at - 1]] < value:
            at -= 1
        places.insert(at, i)
    return places^


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


@always_inline
def likely_logits(
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    high: Pointer[UInt8, _],
    low: Pointer[UInt8, _],
    scale: Pointer[mut=False, Float32, _],
    bounds: Pointer[Float32, _],
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
        sieve_list.append(sieve_row(byte_list.unsafe_ptr().unsafe_offset(i * k), row, bounds, k))
        unit_list[i] = quantize_words(word_list.unsafe_ptr().unsafe_offset(i * k), row, k, 1)
    var threads = 1 if m * n * k < SERIAL_WORK_INT8 else parallelism_level()
    var parts = min(SHARES * threads, blocks)
    # Of each row, group and lane, what the best that may be chosen is at least.
    var groups = (sieved + GROUP - 1) // GROUP
    var leasts_of_row = groups * COLUMNS
    var least_list = List[Float32](length=m * leasts_of_row, fill=neg_inf[F32]())
    var bar_list = List[Float32](length=m, fill=0)
    var bytes = byte_list.unsafe_ptr()
    var words = word_list.unsafe_ptr()
    var units = unit_list.unsafe_ptr()
    var sieves = sieve_list.unsafe_ptr()
    var leasts = least_list.unsafe_ptr()
    var bars = bar_list.unsafe_ptr()

    var counter_list = phase_counters(3)
    var counters = counter_list.unsafe_ptr()

    @always_inline
    def chosen_from(row: Int, at: Int, values: SIMD[F32, COLUMNS]) {imm} -> SIMD[F32, COLUMNS]:
        """A block's logits where they may be chosen."""
        var first_token = states[unsafe_offset=row * STATE_SIZE + N_SAMPLED] == 0
        var mask = suppress.unsafe_offset(n if first_token else 0)
        return values + mask.unsafe_load[width=COLUMNS](at)

    @always_inline
    def sieve_rows[rows: Int, together: Int](first: Int, block: Int) {imm}:
        var sums = sum_halves[rows, together](
            bytes.unsafe_offset(first * k), high.unsafe_offset(block * COLUMNS * k // 2), k
        )
        comptime for i in range(rows):
            var row = first + i
            var sieve = sieves.unsafe_offset(row)
            var group = block // GROUP
            var least = leasts.unsafe_offset(row * leasts_of_row + group * COLUMNS)
            var highest = least.unsafe_load[width=COLUMNS](0)
            comptime for b in range(together):
                var at = (block + b) * COLUMNS
                var scales = scale.unsafe_load[width=COLUMNS](at)
                # Twice 16 h + 7.5, in whole numbers.
                var doubled = 32 * sums[i * together + b] - (32 * HALF_OFFSET - 15) * sieve[].total
                var values = doubled.cast[F32]() * (0.5 * sieve[].unit) * scales
                y.unsafe_store(row * n + at, values)
                var lowest = scales.fma(-sieve[].spread, chosen_from(row, at, values))
                highest = larger[COLUMNS](highest, lowest)
            least.unsafe_store(0, highest)

    @always_inline
    def sieve_blocks[rows: Int, together: Int](row: Int, first: Int, last: Int) {imm}:
        var block = first
        while block + together <= last:
            sieve_rows[rows, together](row, block)
            block += together
        comptime if together > 1:
            while block < last:
                sieve_rows[rows, 1](row, block)
                block += 1

    def sieve_group(group: Int) {imm}:
        var last = min((group + 1) * GROUP, sieved)
        for block in range(group * GROUP, last, WITH_ONE):
            var end = min(block + WITH_ONE, last)
            var row = 0
            while row + TOGETHER <= m:
                sieve_blocks[TOGETHER, WITH_ROWS](row, block, end)
                row += TOGETHER
            while row < m:
                sieve_blocks[1, WITH_ONE](row, block, end)
                row += 1

    @always_inline
    def join(joined: Pointer[mut=True, Int8, _], block: Int) {imm}:
        var at = block * COLUMNS * k // 2
        join_block(joined, high.unsafe_offset(at), low.unsafe_offset(at), k)

    @always_inline
    def fill(joined: Pointer[Int8, _], row: Int, block: Int) {imm}:
        multiply_block[NONE](
            y.unsafe_offset(row * n), words.unsafe_offset(row * k), units.unsafe_offset(row),
            joined, scale, scale, x, block, 1, n, k,
        )

    @always_inline
    def bounds_of[sign: Int](row: Int, block: Int) {imm} -> SIMD[F32, COLUMNS]:
        """What a block's logits that may be chosen are at least (sign -1), or at most (1)."""
        var at = block * COLUMNS
        var values = chosen_from(row, at, y.unsafe_load[width=COLUMNS](row * n + at))
        var off = Float32(sign) * sieves.unsafe_offset(row)[].spread
        return scale.unsafe_load[width=COLUMNS](at).fma(off, values)

    def set_bar(row: Int) {imm}:
        """Compute the blocks in full that promise most; the least of their best is a row's bar."""
        bars[unsafe_offset=row] = neg_inf[F32]()
        var count = Int(wanted[unsafe_offset=row])
        if count == 0:
            return
        var places = largest_places(
            leasts.unsafe_offset(row * leasts_of_row), leasts_of_row, count
        )
        if len(places) < count:
            return
        var bar = inf[F32]()
        var joined = List[Int8](length=COLUMNS * k, fill=0)
        for place in places:
            var lane = place % COLUMNS
            var first = place // COLUMNS * GROUP
            var best = first
            var highest = neg_inf[F32]()
            for block in range(first, min(first + GROUP, sieved)):
                var least = bounds_of[-1](row, block)[lane]
                if least > highest:
                    highest = least
                    best = block
            join(joined.unsafe_ptr(), best)
            fill(joined.unsafe_ptr(), row, best)
            var at = best * COLUMNS
            var exact = chosen_from(row, at, y.unsafe_load[width=COLUMNS](row * n + at))
            bar = min(bar, exact[lane])
        bars[unsafe_offset=row] = bar
        _ = joined^

    @always_inline
    def may_hold_best(row: Int, block: Int) {imm} -> Bool:
        return not bounds_of[1](row, block).lt(bars[unsafe_offset=row]).reduce_and()

    def fill_part(part: Int) {imm}:
        var joined = List[Int8](length=COLUMNS * k, fill=0)
        for block in range(blocks * part // parts, blocks * (part + 1) // parts):
            var ready = False
            for row in range(m):
                if block < sieved and not may_hold_best(row, block):
                    continue
                if not ready:
                    join(joined.unsafe_ptr(), block)
                    ready = True
                fill(joined.unsafe_ptr(), row, block)
        _ = joined^

    def task(t: Int) {imm}:
        work_through(sieve_group, groups, counters, 0)
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
    _ = bar_list^
    _ = counter_list^
