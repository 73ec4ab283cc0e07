"""The weights of a softmax as bytes: 2^x of a row of scores, rounded up or down by a pattern.

Weights are relative to the highest of those given together. Most of their sum can lie in hundreds
that are below half a byte's unit; so they are rounded up or down by a pattern along the keys
(ordered dithering), which keeps the sum of many right where rounding to nearest would lose it.
"""

from std.math import exp2, floor
from std.memory import bitcast
from std.sys import llvm_intrinsic

from .attention import LANES
from .attention_int8 import Vector
from .linear import larger
from .quantized import (
    AVX512_WORDS,
    F32,
    I32,
    I8,
    PAIRS,
    REGISTER,
    U8,
    VNNI,
    PairSums,
    Words,
    dot_four_bytes,
    dot_pairs,
    multiply_pairs,
)
from .rounding import in_order, to_whole

comptime U16 = DType.uint16
comptime Halves = SIMD[U16, 2 * LANES]
"""Numbers of 16 bits, of two registers of scores."""
comptime DITHER_BITS = 8
comptime DITHERS = 1 << DITHER_BITS
"""Thresholds of the pattern, after which it starts anew."""
comptime THRESHOLD = U16 if AVX512_WORDS else F32
"""What holds a threshold: in 16 bits it is a number of 256ths."""
comptime WEIGHT_TOP = 255 if VNNI else 190
"""The largest byte of a weight. Where values have to fit, more would make these coarser."""
comptime LOG2_TOP = Float32(7.988684686772166 if VNNI else 7.562242424221073)
"""log2(WEIGHT_TOP - 1): the highest weight, which dithering can raise by one."""
comptime WHOLE = 8
"""2^WHOLE is above all weights."""
comptime FRACTION_BITS = 6
"""Exponents are rounded to 64ths, which puts a weight off by 0.3 % (root mean square): their powers
fill two registers, where one instruction finds them."""
comptime UNITS = 1 << FRACTION_BITS
"""Units of 16 bits that an exponent of 1 is."""
comptime AT_ONCE = 4 * LANES if AVX512_WORDS else LANES
"""Scores that become bytes together."""


def power_table() -> List[UInt16]:
    """2^(16 - (i + 1) / UNITS), i < UNITS, rounded."""
    var powers = List[UInt16](length=UNITS, fill=0)
    for i in range(UNITS):
        powers[i] = round(exp2(16 - Float32(i + 1) / UNITS)).cast[U16]()
    return powers^


def dither_pattern() -> List[Scalar[THRESHOLD]]:
    """DITHERS thresholds in (0, 1), evenly spread in every run of them (van der Corput's sequence).

    Of a run of equal weights the right number is rounded up, to half a one. In 16 bits they stand
    in the order in which `to_halves` leaves the scores of two registers.
    """
    var pattern = List[Scalar[THRESHOLD]](length=DITHERS, fill=0)
    for i in range(DITHERS):
        var reversed = 0
        for bit in range(DITHER_BITS):
            reversed = 2 * reversed + ((i >> bit) & 1)
        comptime if AVX512_WORDS:
            var register = i // LANES % 2
            var four = i % LANES // 4
            var place = i // (2 * LANES) * (2 * LANES) + four * 8 + register * 4 + i % 4
            pattern[place] = UInt16(reversed).cast[THRESHOLD]()
        else:
            pattern[i] = ((Float32(reversed) + 0.5) / DITHERS).cast[THRESHOLD]()
    return pattern^


@always_inline
def exp2_to_bytes(x: Vector, dither: Vector) -> SIMD[I32, LANES]:
    """2^x rounded up or down by `dither` in [0, 1), for x <= LOG2_TOP.

    2^(x - floor(x)) by a polynomial, off by 7.5e-5 of it at most, then scaled by 2^floor(x).
    """
    var held = larger[LANES](x, -64)
    var exponent = floor(held)
    var f = held - exponent
    var series = f.fma(Vector(0.07802438), Vector(0.22606736))
    series = series.fma(f, Vector(0.69583347)).fma(f, Vector(0.99992522))
    var scale = bitcast[F32, LANES]((exponent.cast[I32]() + 127) << 23)
    return (series * scale + dither).cast[I32]()


@always_inline
def to_halves(first: Vector, second: Vector) -> Halves:
    """Both rounded to 16 bits, held within them: by fours of one, then of the other."""
    var words = llvm_intrinsic["llvm.x86.avx512.packssdw.512", SIMD[DType.int16, 2 * LANES]](
        to_whole(first), to_whole(second)
    )
    return bitcast[U16, 2 * LANES](words)


@always_inline
def exp2_of_halves(z: Halves, dither: Halves, powers: Pointer[UInt16, _]) -> Halves:
    """2^x, rounded up or down by `dither` / 256; z stands for x = WHOLE - (z + 1) / UNITS.

    The fraction of z names a number of [2^15, 2^16) in `powers`; the rest shifts it right until it
    is in 256ths. From 16 on nothing is left.
    """
    var power = llvm_intrinsic["llvm.x86.avx512.vpermi2var.hi.512", Halves](
        powers.unsafe_load[width=2 * LANES](0), z, powers.unsafe_load[width=2 * LANES](2 * LANES)
    )
    var shifted = llvm_intrinsic["llvm.x86.avx512.psrlv.w.512", Halves](power, z >> FRACTION_BITS)
    return (shifted + dither) >> 8


@always_inline
def sum_of_bytes(sums: PairSums, bytes: SIMD[U8, REGISTER]) -> PairSums:
    """sums[i] + the four bytes of lane i."""
    comptime if VNNI:
        return dot_four_bytes(sums, bytes, SIMD[I8, REGISTER](1))
    else:
        return dot_pairs(sums, multiply_pairs(bytes, SIMD[I8, REGISTER](1)), Words(1))


@always_inline
def weigh(
    weights: Pointer[mut=True, UInt8, _],
    sums: Pointer[mut=True, PairSums, _],
    scores: Pointer[Float32, _],
    unit: Float32,
    highest: Float32,
    dithers: Pointer[Scalar[THRESHOLD], _],
    powers: Pointer[UInt16, _],
):
    """Make the bytes of 2^(unit * scores[AT_ONCE] - highest), times WEIGHT_TOP - 1.

    They are added to the lanes of `sums`. `dithers` are those of these scores, `powers` those of
    `power_table`, which are looked at with AVX-512 only.
    """
    var shift = LOG2_TOP - highest
    comptime if AVX512_WORDS:
        var slope = Vector(-UNITS * unit)
        var start = Vector(Float32(WHOLE * UNITS - 1) - UNITS * shift)
        var packed = Array[Halves, length=2](fill=Halves(0))
        comptime for i in range(2):
            comptime at = i * 2 * LANES
            var z = to_halves(
                scores.unsafe_load[width=LANES](at).fma(slope, start),
                scores.unsafe_load[width=LANES](at + LANES).fma(slope, start),
            )
            var dither = dithers.unsafe_load[width=2 * LANES](at)
            packed[i] = exp2_of_halves(z, rebind[Halves](dither), powers)
        var bytes = in_order(
            bitcast[DType.int16, 2 * LANES](packed[0]), bitcast[DType.int16, 2 * LANES](packed[1])
        )
        sums[unsafe_offset=0] = sum_of_bytes(sums[unsafe_offset=0], rebind[SIMD[U8, REGISTER]](bytes))
        weights.unsafe_store(0, bytes)
    else:
        var x = scores.unsafe_load[width=LANES](0).fma(Vector(unit), Vector(shift))
        var dither = dithers.unsafe_load[width=LANES](0)
        var whole = exp2_to_bytes(x, rebind[Vector](dither))
        comptime for part in range(LANES // PAIRS):
            sums[unsafe_offset=0] += rebind[PairSums](whole.slice[PAIRS, offset=part * PAIRS]())
        weights.unsafe_store(0, whole.cast[U8]())
