"""The best of many logits without reading all of the weights: a sieve of half-bytes.

The sieve takes the upper halves alone (half_bytes.mojo), the lower ones, with their rests
(token_embedding.mojo), as their middle 7.5, and activations in 8 bits. What that leaves out is the
sum of as many roundings as there are terms, so it is known how far a logit can be off: SPREAD standard
deviations of the token whose bytes allow most, and what the mean of its lower halves adds to all terms
alike. So what may be the best is known without the other half of the bytes (likely_choice.mojo).
Logits are off by about 0.4 (tiny.en), which moves a log-probability by 0.009 (benchmarks/cpu-floor.md).
"""

from std.math import sqrt

from .half_bytes import HALF_OFFSET, sum_halves
from .linear import WIDTH
from .quantized import COLUMNS, F32, I32, I8, VNNI
from .rounding import largest_magnitude

comptime TOGETHER = 8 if VNNI else 4
"""Rows that the sieve multiplies together; of those that are left over half as many, and so on."""
comptime SPAN = 4 if VNNI else 1
"""Blocks that all rows are multiplied with before the next ones are."""
comptime BYTE_TOP = 127
comptime SPREAD = Float32(6)
"""Standard deviations that a sieved logit may be off by: one of a thousand million is more."""
comptime HALF_VARIANCE = 0
"""Which of the bounds is the most that any token has as mean square of its lower halves, with their
rests, less 7.5: 21.3 where all are as likely, 25.2 in tiny.en and base."""
comptime BYTE_SQUARE = 1
"""Which is the most mean square of a token's bytes and rests: 52² in tiny.en, 70² in base."""
comptime HALF_MEAN = 2
"""Which is the farthest that the mean of a token's lower halves and rests is from 7.5: 1.1 and 0.9."""


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
def sieve_blocks[origin: Origin](
    y: Pointer[mut=True, Float32, _],
    stride: Int,
    bytes: Pointer[Int8, _],
    sieves: Pointer[Sieve, origin],
    m: Int,
    high: Pointer[UInt8, _],
    scale: Pointer[Float32, _],
    blocks: Int,
    k: Int,
):
    """Put the sieved logits of `blocks` blocks that follow each other: y[m, blocks * 16].

    Rows of y are `stride` apart; `bytes` [m, k] and `sieves` [m] are as `sieve_row` made them, `high`
    and `scale` those of the first block. 32 divides k.
    """

    @always_inline
    def tile[rows: Int](first: Int, block: Int) {imm}:
        var sums = sum_halves[rows](
            bytes.unsafe_offset(first * k), high.unsafe_offset(block * COLUMNS * k // 2), k
        )
        var at = block * COLUMNS
        comptime for i in range(rows):
            var sieve = sieves.unsafe_offset(first + i)
            # Twice 16 h + 7.5, in whole numbers.
            var doubled = 32 * sums[i] - (32 * HALF_OFFSET - 15) * sieve[].total
            var values = doubled.cast[F32]() * (0.5 * sieve[].unit)
            y.unsafe_store((first + i) * stride + at, values * scale.unsafe_load[width=COLUMNS](at))

    for span in range(0, blocks, SPAN):
        var end = min(span + SPAN, blocks)
        var row = 0
        comptime for halvings in range(4):
            comptime rows = TOGETHER >> halvings
            comptime if rows > 0:
                while row + rows <= m:
                    for block in range(span, end):
                        tile[rows](row, block)
                    row += rows
