"""Bytes of weights kept as halves, so that half of them can be read alone.

w = 16 h + l, with h from -8 to 7 in one plane and l from 0 to 15 in the other, each uint8
[n / 16, k / 8, 16, 4]: blocks of columns as in quantized.mojo. Of eight terms the first four are the
lower halves of a plane's bytes and the next four the upper ones; h is stored as h + 8.
"""

from std.memory import bitcast

from .linear import fetch_in_order
from .quantized import (
    COLUMNS,
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
    multiply_pairs,
)

comptime OCTET = 2 * TERMS
"""Terms whose halves fill a register's bytes."""
comptime RUN = 4 * OCTET
"""Terms whose products are added in 16 bits: 32 of 15 · 127, two by two, fill a lane."""
comptime HALF_OFFSET = 8
"""What is added to an upper half to store it."""
comptime CHAINS = 8
"""Sums in flight that hide the latency of an instruction of VNNI."""


@always_inline
def join_halves[width: Int](
    high: SIMD[U8, width], low: SIMD[U8, width]
) -> Tuple[SIMD[I8, width], SIMD[I8, width]]:
    """The weights of an octet's first and second four terms."""
    var first = ((high & 15) << 4) | (low & 15)
    var second = (high & 240) | (low >> 4)
    return (bitcast[I8, width](first ^ 128), bitcast[I8, width](second ^ 128))


@always_inline
def join_block(
    w: Pointer[mut=True, Int8, _], high: Pointer[UInt8, _], low: Pointer[UInt8, _], k: Int
):
    """Put a block's halves together: [k / 4, 16, 4], as quantized.mojo has it."""
    for octet in range(k // OCTET):
        var at = octet * STEP
        var both = join_halves[STEP](
            high.unsafe_load[width=STEP](at), low.unsafe_load[width=STEP](at)
        )
        w.unsafe_store(2 * at, both[0])
        w.unsafe_store(2 * at + STEP, both[1])


@always_inline
def sum_halves[rows: Int](x: Pointer[Int8, _], high: Pointer[UInt8, _], k: Int) -> Array[Sums, rows]:
    """The sums of x[rows, k] over a block of upper halves as they are stored; 32 divides k.

    A block is read from end to end: several at once are so many streams, which come from memory a
    quarter slower. With few rows several chains of each are in flight instead.
    """
    comptime Bytes = SIMD[U8, REGISTER]
    comptime chains = max(1, CHAINS // rows) if VNNI else 1
    var whole = Array[Sums, length=rows](fill=Sums(0))
    comptime for piece in range(PIECES):
        var sums = Array[PairSums, length=rows * chains](fill=PairSums(0))
        for c in range(0, k, RUN):
            var run = Array[Words, length=rows](fill=Words(0))
            comptime for at in range(0, RUN, OCTET):
                var bytes_at = high.unsafe_offset((c + at) // OCTET * STEP + piece * REGISTER)
                comptime if piece == 0:
                    fetch_in_order[rows](bytes_at)
                var bytes = bytes_at.unsafe_load[width=REGISTER](0)
                var first = bytes & 15
                var second = bytes >> 4
                comptime for i in range(rows):
                    var terms = x.unsafe_offset(i * k + c + at)
                    var a = broadcast_signed(terms)
                    var z = broadcast_signed(terms.unsafe_offset(TERMS))
                    comptime if VNNI:
                        # Chains take turns, so that of two products neither waits for the other's sum.
                        comptime n = i * chains + 2 * (at // OCTET) % chains
                        comptime m = i * chains + (2 * (at // OCTET) + 1) % chains
                        sums[n] = dot_four_bytes(sums[n], first, a)
                        sums[m] = dot_four_bytes(sums[m], second, z)
                    else:
                        run[i] += multiply_pairs(first, a) + multiply_pairs(second, z)
            comptime if not VNNI:
                comptime for i in range(rows):
                    sums[i] = dot_pairs(sums[i], run[i], Words(1))
        comptime for i in range(rows):
            var sum = sums[i * chains]
            comptime for chain in range(1, chains):
                sum += sums[i * chains + chain]
            whole[i] = whole[i].insert[offset=piece * PAIRS](sum)
    return whole^
