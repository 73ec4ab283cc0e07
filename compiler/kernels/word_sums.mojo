"""Products of 16-bit activations with int8 weights, of few rows with a block of columns."""

from .linear import fetch_in_order
from .quantized import (
    AVX512_WORDS,
    COLUMNS,
    F32,
    GROUP_TERMS,
    I32,
    PAIRS,
    PARTS,
    TERMS,
    PairSums,
    Register,
    Sums,
    Words,
    broadcast_words,
    dot_pairs,
)

comptime MOST_SUMS = 24 if AVX512_WORDS else 8
"""Registers of sums that leave enough for the rest: there are 32 with AVX-512, else 16."""
comptime CHAINS = 8
"""Sums in flight that hide the latency of an instruction."""


@always_inline
def sum_words[rows: Int](
    x: Pointer[Int16, _], w: Pointer[Int8, _], k: Int
) -> Array[Sums, rows]:
    """The sums of `rows` rows of x [k / 4, rows, 4] over one block of weights [k / 4, 16, 4].

    What is multiplied together stands together; k is a multiple of 16. As many registers of a
    block are taken at once as there is room for sums, then as many rows; with few, several chains
    of each. What comes behind the block is fetched meanwhile: the next one, as a rule.
    """
    comptime at_once = PARTS if rows >= 8 else max(1, min(PARTS, MOST_SUMS // rows))
    comptime group = min(rows, max(1, MOST_SUMS // at_once))
    comptime unroll = max(1, min(4, CHAINS // (group * at_once)))
    comptime assert rows % group == 0
    var whole = Array[SIMD[I32, 2 * COLUMNS], length=rows](fill=SIMD[I32, 2 * COLUMNS](0))
    comptime for first in range(0, PARTS, at_once):
        comptime for row in range(0, rows, group):
            var sums = Array[PairSums, length=group * unroll * at_once](fill=PairSums(0))
            for c in range(0, k, TERMS * unroll):
                comptime for u in range(unroll):
                    var at = c + TERMS * u
                    comptime if first == 0 and row == 0:
                        fetch_in_order[rows](w.unsafe_offset(at * COLUMNS))
                    var terms = Array[Words, length=group](fill=Words(0))
                    comptime for i in range(group):
                        terms[i] = broadcast_words(x.unsafe_offset(at * rows + (row + i) * TERMS))
                    comptime for part in range(at_once):
                        var wide = w.unsafe_load[width=2 * PAIRS](
                            at * COLUMNS + (first + part) * 2 * PAIRS
                        ).cast[DType.int16]()
                        comptime for i in range(group):
                            comptime j = (i * unroll + u) * at_once + part
                            sums[j] = dot_pairs(sums[j], terms[i], wide)
            comptime for i in range(group):
                comptime for part in range(at_once):
                    var total = sums[i * unroll * at_once + part]
                    comptime for u in range(1, unroll):
                        total += sums[(i * unroll + u) * at_once + part]
                    comptime offset = (first + part) * PAIRS
                    whole[row + i] = whole[row + i].insert[offset=offset](total)
    var sums_of_columns = Array[Sums, length=rows](fill=Sums(0))
    comptime for i in range(rows):
        var halves = whole[i].deinterleave()
        sums_of_columns[i] = halves[0] + halves[1]
    return sums_of_columns^


@always_inline
def sum_groups[rows: Int](
    x: Pointer[Int16, _], w: Pointer[Int8, _], group_scale: Pointer[UInt8, _], k: Int
) -> Array[Register, rows]:
    """The sums of `sum_words` group by group, each times its column's scale of the block's group_scale."""
    var totals = Array[Register, length=rows](fill=Register(0))
    for c in range(0, k, GROUP_TERMS):
        var terms = min(GROUP_TERMS, k - c)
        var sums = sum_words[rows](x.unsafe_offset(c * rows), w.unsafe_offset(c * COLUMNS), terms)
        var at = c // GROUP_TERMS * COLUMNS
        var scales = group_scale.unsafe_load[width=COLUMNS](at).cast[F32]()
        comptime for i in range(rows):
            totals[i] = sums[i].cast[F32]().fma(scales, totals[i])
    return totals^
