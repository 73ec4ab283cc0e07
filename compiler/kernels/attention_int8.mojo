"""Keys and values of one head as 8-bit values: their layout and how they are made.

Both are laid out as int8 weights are (quantized.mojo), so that scores are a product with the keys
as columns and a head's axes as terms, and the mix one with the axes as columns and positions as
terms. Keys stand in blocks of 16: bytes [16, 16, 4] (four axes of sixteen keys fill a register),
then the sixteen units as f32. Values are bytes [4, t / 4, 16, 4], t a multiple of 16, behind them
the 64 axes' units and middles as f32: a byte is the value less the axis's middle, / the axis's
unit. An offset of all values of an axis passes through attention unchanged, as weights sum to 1,
so the middle takes no part in the rounding.
"""

from .attention import HEAD, LANES
from .quantized import F32, I32, STEP, TERMS

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
def pack_key[zero: Int](keys: Pointer[mut=True, UInt8, _], k: Pointer[Float32, _], t: Int):
    """Put k[64] at position t of one head's keys; the byte `zero` stands for 0."""
    var top = Vector(0)
    comptime for part in range(PARTS_OF_HEAD):
        top = max(top, abs(k.unsafe_load[width=LANES](part * LANES)))
    var highest = top.reduce_max()
    var inverse = Float32(BYTE_TOP) / highest if highest > 0 else Float32(0)
    var block = keys.unsafe_offset((t // LANES) * KEY_BLOCK_BYTES)
    var lane = t % LANES
    comptime for part in range(PARTS_OF_HEAD):
        var bytes = signed_units(k.unsafe_load[width=LANES](part * LANES), inverse) + Int32(zero)
        comptime for i in range(0, LANES, TERMS):
            var four = bytes.slice[TERMS, offset=i]().cast[DType.uint8]()
            block.unsafe_store((part * LANES + i) * LANES + lane * TERMS, four)
    block.unsafe_offset(KEY_BYTES).bitcast[Float32]()[unsafe_offset=lane] = highest / BYTE_TOP


@always_inline
def pack_values(
    values: Pointer[mut=True, UInt8, _],
    v: Pointer[Float32, _],
    length: Int,
    padded: Int,
    stride: Int,
):
    """Make the bytes, units and middles of v[length, 64], whose rows are `stride` apart.

    Positions from `length` to `padded` are left as they are.
    """
    var units = values.unsafe_offset(padded * HEAD).bitcast[Float32]()
    comptime for part in range(PARTS_OF_HEAD):
        var source = v.unsafe_offset(part * LANES)
        var low = source.unsafe_load[width=LANES](0)
        var high = low
        for t in range(1, length):
            var row = source.unsafe_load[width=LANES](t * stride)
            low = min(low, row)
            high = max(high, row)
        var middle = (low + high) * 0.5
        var unit = (high - low) * Float32(0.5 / BYTE_TOP)
        var inverse = unit.gt(0).select(1.0 / unit, Vector(0))
        units.unsafe_store(part * LANES, unit)
        units.unsafe_store(HEAD + part * LANES, middle)
        var words = values.unsafe_offset(part * padded * LANES).bitcast[Int32]()
        for t in range(0, length, TERMS):
            var four = SIMD[I32, LANES](0)
            comptime for i in range(TERMS):
                if t + i < length:
                    var row = source.unsafe_load[width=LANES]((t + i) * stride) - middle
                    var whole = max(min(round(row * inverse), BYTE_TOP), -BYTE_TOP).cast[I32]()
                    four = four | ((whole & 255) << SIMD[I32, LANES](8 * i))
            words.unsafe_store(t * LANES // TERMS, four)
