"""Rows of activations rounded to 16 bits or to unsigned bytes."""

from std.memory import bitcast
from std.sys import llvm_intrinsic

from .linear import WIDTH, larger, smaller
from .quantized import COLUMNS, F32, I32, REGISTER, TERMS, U8, VNNI, Register, Sums

comptime WORD_LIMIT = 32767
comptime BYTE_LIMIT = 255 if VNNI else 220
"""The largest activation in 8 bits. Where weights have to fit, more would make these coarser."""


@always_inline
def fitting_sum(unsigned_limit: Int) -> Float32:
    """What four values of one sign may add up to, in units, so that their bytes fit.

    Rounding adds half a unit to each at most. The unsigned bytes they meet reach to
    `unsigned_limit`.
    """
    return Float32(WORD_LIMIT // unsigned_limit - 2)


@always_inline
def largest_magnitude(x: Pointer[Float32, _], k: Int) -> Float32:
    """The largest |x| of a row of k values."""
    var lanes = SIMD[F32, WIDTH](0)
    for c in range(0, k, WIDTH):
        lanes = larger[WIDTH](lanes, abs(x.unsafe_load[width=WIDTH](c)))
    return lanes.reduce_max()


@always_inline
def word_limit(terms: Int) -> Float32:
    """The largest magnitude of 16-bit activations with which no sum of so many terms overflows."""
    return Float32(min(WORD_LIMIT, 2147483647 // (127 * terms)))


@always_inline
def store_words(
    y: Pointer[mut=True, Int16, _], words: SIMD[DType.int16, WIDTH], c: Int, rows: Int
):
    """Put terms c … c + WIDTH of one row into y [k / 4, rows, 4], y being the row's first term."""
    comptime for i in range(0, WIDTH, TERMS):
        y.unsafe_store((c + i) * rows, words.slice[TERMS, offset=i]())


@always_inline
def quantize_words(
    y: Pointer[mut=True, Int16, _], x: Pointer[Float32, _], k: Int, rows: Int, terms: Int
) -> Float32:
    """Round a row of k values to 16 bits; returns what one unit is worth.

    y is the row's first place in [k / 4, rows, 4]; sums are of `terms` terms at most.
    """
    var limit = word_limit(terms)
    var top = largest_magnitude(x, k)
    var inverse = limit / top if top > 0 else Float32(0)
    for c in range(0, k, WIDTH):
        var units = round(x.unsafe_load[width=WIDTH](c) * inverse)
        store_words(y, units.cast[I32]().cast[DType.int16](), c, rows)
    return top / limit


@fieldwise_init
struct Affine(Copyable, Movable):
    """How a row's unsigned bytes stand for its values: value = unit * (byte - zero)."""

    var unit: Float32
    var zero: Int32


@always_inline
def quantize_bytes(
    y: Pointer[mut=True, UInt8, _], x: Pointer[Float32, _], k: Int
) -> Affine:
    """Round a row of k values to 0 … BYTE_LIMIT."""
    var low = SIMD[F32, WIDTH](0)
    var high = SIMD[F32, WIDTH](0)
    for c in range(0, k, WIDTH):
        var values = x.unsafe_load[width=WIDTH](c)
        low = smaller[WIDTH](low, values)
        high = larger[WIDTH](high, values)
    var bottom = low.reduce_min()
    var span = high.reduce_max() - bottom
    if not span > 0:
        for c in range(0, k, WIDTH):
            y.unsafe_store(c, SIMD[U8, WIDTH](0))
        return Affine(0, 0)
    var inverse = Float32(BYTE_LIMIT) / span
    var zero = round(-bottom * inverse)
    var c = 0
    comptime if VNNI:
        while c + REGISTER <= k:
            y.unsafe_store(c, rounded_bytes(x.unsafe_offset(c), inverse, zero.cast[I32]()))
            c += REGISTER
    while c < k:
        var units = round(x.unsafe_load[width=WIDTH](c) * inverse) + zero
        y.unsafe_store(c, smaller[WIDTH](units, Float32(BYTE_LIMIT)).cast[I32]().cast[U8]())
        c += WIDTH
    return Affine(span / Float32(BYTE_LIMIT), zero.cast[I32]())


@always_inline
def to_whole(x: Register) -> Sums:
    """Round to nearest; what is too large for 32 bits, or is none, becomes the lowest number."""
    return llvm_intrinsic["llvm.x86.avx512.mask.cvtps2dq.512", Sums](
        x, Sums(0), UInt16(0xFFFF), Int32(4)
    )


@always_inline
def rounded_bytes(x: Pointer[Float32, _], inverse: Float32, zero: Int32) -> SIMD[U8, 64]:
    """x[64] in units of 1 / inverse, rounded, plus zero, held within bytes; with AVX-512."""
    var pairs = Array[SIMD[DType.int16, 32], length=2](fill=SIMD[DType.int16, 32](0))
    comptime for i in range(2):
        var first = x.unsafe_load[width=COLUMNS](2 * i * COLUMNS) * inverse
        var second = x.unsafe_load[width=COLUMNS]((2 * i + 1) * COLUMNS) * inverse
        pairs[i] = llvm_intrinsic["llvm.x86.avx512.packssdw.512", SIMD[DType.int16, 32]](
            to_whole(first) + zero, to_whole(second) + zero
        )
    return in_order(pairs[0], pairs[1])


@always_inline
def in_order(first: SIMD[DType.int16, 32], second: SIMD[DType.int16, 32]) -> SIMD[U8, 64]:
    """Numbers of 16 bits held within bytes, in the order before they were packed from 32 bits."""
    var fours = llvm_intrinsic["llvm.x86.avx512.packuswb.512", SIMD[U8, 64]](first, second)
    var ordered = bitcast[I32, 16](fours).shuffle[0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]()
    return bitcast[U8, 64](ordered)
