"""Keys and values of one head as 8-bit values: their layout and how they are made.

Both are laid out as int8 weights are (quantized.mojo), so that scores are a product with the keys
as columns and a head's axes as terms, and the mix one with the axes as columns and positions as
terms. Keys stand in blocks of 16: bytes [16, 16, 4] (four axes of sixteen keys fill a register),
then the sixteen units as f32. Values are bytes [4, t / 4, 16, 4], t a multiple of 16, behind them
the 64 axes' units and middles as f32: a byte is the value less the axis's middle, / the axis's
unit. An offset of all values of an axis passes through attention unchanged, as weights sum to 1,
so the middle takes no part in the rounding.
"""

from std.memory import bitcast

from .attention import HEAD, LANES
from .linear import larger, smaller
from .quantized import AVX512_WORDS, F32, I32, TERMS, VNNI
from .rounding import fitting_sum, rounded_bytes

comptime Vector = SIMD[F32, LANES]
comptime KEY_BYTES = LANES * HEAD
"""Bytes of a block of keys."""
comptime KEY_BLOCK_BYTES = KEY_BYTES + 4 * LANES
"""Bytes of a block of keys with its units."""
comptime BYTE_TOP = 127
"""The largest magnitude of a signed byte in use."""
comptime PARTS_OF_HEAD = HEAD // LANES


@always_inline
def value_bytes(padded: Int) -> Int:
    """Bytes of the values of `padded` positions, with their units and middles."""
    return padded * HEAD + 2 * 4 * HEAD


@always_inline
def value_units(values: Pointer[UInt8, _], padded: Int) -> Pointer[Float32, values.origin]:
    """The units of a head's values; their middles are HEAD further on."""
    return values.unsafe_offset(padded * HEAD).bitcast[Float32]()


@always_inline
def key_units(block: Pointer[UInt8, _]) -> Vector:
    """The units of a block's keys."""
    return block.unsafe_offset(KEY_BYTES).bitcast[Float32]().unsafe_load[width=LANES](0)


@always_inline
def signed_units(x: Vector, inverse: Float32) -> SIMD[I32, LANES]:
    """x in units of 1 / inverse, rounded; |x| is at most BYTE_TOP of them."""
    return round(x * inverse).cast[I32]()


@always_inline
def pack_key[zero: Int, limit: Int](
    keys: Pointer[mut=True, UInt8, _], k: Pointer[Float32, _], t: Int
):
    """Put k[64] at position t of one head's keys: bytes from zero - limit to zero + limit."""
    var top = Vector(0)
    comptime for part in range(PARTS_OF_HEAD):
        top = max(top, abs(k.unsafe_load[width=LANES](part * LANES)))
    var highest = top.reduce_max()
    var inverse = Float32(limit) / highest if highest > 0 else Float32(0)
    var block = keys.unsafe_offset((t // LANES) * KEY_BLOCK_BYTES)
    var lane = t % LANES
    comptime if AVX512_WORDS:
        # Where 0 stands for 0, bytes are signed ones: 128 too large until they are packed.
        comptime signed = 128 if zero == 0 else 0
        var bytes = rounded_bytes(k, inverse, Int32(zero + signed)) ^ UInt8(signed)
        var fours = bitcast[DType.uint32, LANES](bytes)
        comptime for i in range(LANES):
            block.unsafe_offset((i * LANES + lane) * TERMS).bitcast[UInt32]()[unsafe_offset=0] = fours[i]
    else:
        comptime for part in range(PARTS_OF_HEAD):
            var bytes = signed_units(k.unsafe_load[width=LANES](part * LANES), inverse) + Int32(zero)
            comptime for i in range(0, LANES, TERMS):
                var four = bytes.slice[TERMS, offset=i]().cast[DType.uint8]()
                block.unsafe_store((part * LANES + i) * LANES + lane * TERMS, four)
    block.unsafe_offset(KEY_BYTES).bitcast[Float32]()[unsafe_offset=lane] = highest / Float32(limit)


@always_inline
def value_ranges(
    v: Pointer[Float32, _],
    ranges: Pointer[mut=True, Float32, _],
    length: Int,
    stride: Int,
):
    """How far what each of 64 axes holds reaches from its middle; and, HEAD further on, the middles."""
    var low = Array[Vector, length=PARTS_OF_HEAD](fill=Vector(0))
    var high = Array[Vector, length=PARTS_OF_HEAD](fill=Vector(0))
    comptime for part in range(PARTS_OF_HEAD):
        low[part] = v.unsafe_load[width=LANES](part * LANES)
        high[part] = low[part]
    for t in range(1, length):
        comptime for part in range(PARTS_OF_HEAD):
            var row = v.unsafe_load[width=LANES](t * stride + part * LANES)
            low[part] = smaller[LANES](low[part], row)
            high[part] = larger[LANES](high[part], row)
    comptime for part in range(PARTS_OF_HEAD):
        ranges.unsafe_store(part * LANES, (high[part] - low[part]) * 0.5)
        ranges.unsafe_store(HEAD + part * LANES, (low[part] + high[part]) * 0.5)


@always_inline
def largest_sums_of_four(
    v: Pointer[Float32, _],
    middles: Pointer[Float32, _],
    most: Pointer[mut=True, Float32, _],
    length: Int,
    stride: Int,
):
    """Of 64 axes, the most that four values of one sign, less the middle, add up to.

    Positions are the terms: four of them share a sum.
    """
    comptime for part in range(PARTS_OF_HEAD):
        most.unsafe_store(part * LANES, Vector(0))
    for t in range(0, length, 2 * TERMS):
        comptime for part in range(PARTS_OF_HEAD):
            var middle = middles.unsafe_load[width=LANES](part * LANES)
            var highest = most.unsafe_load[width=LANES](part * LANES)
            comptime for pair in range(0, TERMS, 2):
                var above = Vector(0)
                var below = Vector(0)
                comptime for i in range(4):
                    var at = t + i // 2 * TERMS + pair + i % 2
                    if at < length:
                        var value = v.unsafe_load[width=LANES](at * stride + part * LANES) - middle
                        above += larger[LANES](value, Vector(0))
                        below -= smaller[LANES](value, Vector(0))
                highest = larger[LANES](highest, larger[LANES](above, below))
            most.unsafe_store(part * LANES, highest)


@always_inline
def fitting_unit(x: Pointer[Float32, _], unsigned_limit: Int) -> Float32:
    """The least unit in which none of a row's 64 values is beyond BYTE_TOP and, without VNNI, they fit."""
    var highest = Vector(0)
    var largest = Vector(0)
    comptime for part in range(PARTS_OF_HEAD):
        var values = x.unsafe_load[width=LANES](part * LANES)
        comptime if not VNNI:
            highest = max(highest, max(sums_of_four(max(values, 0)), -sums_of_four(min(values, 0))))
        largest = max(largest, abs(values))
    var unit = largest.reduce_max() / BYTE_TOP
    comptime if VNNI:
        return unit
    return max(highest.reduce_max() / fitting_sum(unsigned_limit), unit)


@always_inline
def sums_of_four(x: Vector) -> Vector:
    """In each lane the sum of the four terms of its run of eight that are added together."""
    var pairs = x + x.shuffle[1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14]()
    return pairs + pairs.shuffle[4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11]()


@always_inline
def pack_values[unsigned_limit: Int = 0](
    values: Pointer[mut=True, UInt8, _],
    v: Pointer[Float32, _],
    length: Int,
    padded: Int,
    stride: Int,
):
    """Make the bytes, units and middles of v[length, 64], whose rows are `stride` apart.

    Positions from `length` to `padded` are left as they are. Where the bytes meet unsigned ones of
    up to `unsigned_limit`, and there is no VNNI, units are so large that they fit (quantized.mojo).
    """
    comptime has_to_fit = unsigned_limit > 0 and not VNNI
    var units = values.unsafe_offset(padded * HEAD).bitcast[Float32]()
    var middles = units.unsafe_offset(HEAD)
    value_ranges(v, units, length, stride)
    var inverses = Array[Float32, length=HEAD](fill=0)
    comptime if has_to_fit:
        largest_sums_of_four(v, middles, inverses.unsafe_ptr(), length, stride)
    comptime for part in range(PARTS_OF_HEAD):
        var unit = units.unsafe_load[width=LANES](part * LANES) * Float32(1.0 / BYTE_TOP)
        comptime if has_to_fit:
            var sums = inverses.unsafe_ptr().unsafe_load[width=LANES](part * LANES)
            unit = max(unit, sums / fitting_sum(unsigned_limit))
        units.unsafe_store(part * LANES, unit)
        inverses.unsafe_ptr().unsafe_store(
            part * LANES, unit.gt(0).select(1.0 / unit, Vector(0))
        )
    for t in range(0, length, TERMS):
        comptime for part in range(PARTS_OF_HEAD):
            var inverse = inverses.unsafe_ptr().unsafe_load[width=LANES](part * LANES)
            var middle = middles.unsafe_load[width=LANES](part * LANES)
            var four = SIMD[I32, LANES](0)
            comptime for i in range(TERMS):
                if t + i < length:
                    var row = v.unsafe_load[width=LANES]((t + i) * stride + part * LANES) - middle
                    var units_of_row = round(row * inverse)
                    var held = larger[LANES](smaller[LANES](units_of_row, BYTE_TOP), -BYTE_TOP)
                    four = four | ((held.cast[I32]() & 255) << SIMD[I32, LANES](8 * i))
            var words = values.unsafe_offset((part * padded + t) * LANES).bitcast[Int32]()
            words.unsafe_store(0, four)
