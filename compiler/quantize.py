"""int8 matrices as the CPU kernels take them: their rounding, and the order of their bytes."""

from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

BLOCK_COLUMNS, BLOCK_TERMS = 16, 4
"""What a packed int8 matrix keeps together; see kernels/quantized.mojo."""

GROUP_TERMS = 64
"""Terms of a row that share a scale in the decoder's matrices; see kernels/quantized.mojo."""

LONG_GROUP = 128
"""The same in the encoder's."""

INT8_LIMIT = 127
"""Largest magnitude of a weight: -128 is not used, so that both signs reach equally far."""

GROUP_LIMIT = 255
"""Largest scale of a group: the row's own scale is so small that its widest group has this one."""

OF_ZEROS = 1e-30
"""The scale of a row of zeros: whatever is made of its values comes to nothing."""

BYTE_LIMIT = 220
"""The largest 8-bit activation on a CPU without VNNI; see kernels/rounding.mojo."""

REST_STEPS = 256
"""Steps of a rest between two bytes, in a token embedding."""

FITTING_STEPS = 64
"""The same where rests have to fit CPUs without VNNI: of four they add up to 128."""

FOUR_LIMIT = 32767 // BYTE_LIMIT
"""What four weights of one sign whose products such a CPU sums in 16 bits may add up to."""


def quantize_int8(value: Float32) -> tuple[npt.NDArray[np.int8], Float32]:
    """A matrix [n, k] as int8 [n, k] times a scale [n]: each row's largest magnitude is 127."""
    largest = np.abs(value).max(axis=1)
    scale: Float32 = np.where(largest > 0, largest / INT8_LIMIT, OF_ZEROS).astype(np.float32)
    return np.rint(value / scale[:, None]).astype(np.int8), scale


def quantize_groups(
    value: Float32, terms: int = GROUP_TERMS, *, fits: bool = False
) -> tuple[npt.NDArray[np.int8], Float32, npt.NDArray[np.uint8]]:
    """A matrix [n, k] as int8 [n, k] times a scale [n] times one uint8 [n, groups] of each group.

    A group is `terms` terms of a row, the last one what is left. Its scale is the least whole
    multiple of the row's with which its largest magnitude is 127 at most; where it has to fit
    (8 divides k), also with which no four values of one sign that share a 16-bit sum add up to more
    than FOUR_LIMIT.
    """
    starts = np.arange(0, value.shape[1], terms)
    finest = np.maximum.reduceat(np.abs(value), starts, axis=1) / np.float32(INT8_LIMIT)
    if fits:  # rounding adds half a unit to each of the four at most
        fours = np.maximum.reduceat(sums_of_four(value), starts // 8 * 4, axis=1)
        finest = np.maximum(finest, fours / np.float32(FOUR_LIMIT - 2))
    unit = finest.max(axis=1) / np.float32(GROUP_LIMIT)
    scale: Float32 = np.where(unit > 0, unit, OF_ZEROS).astype(np.float32)
    wanted = np.ceil(finest / scale[:, None])
    group_scale = np.clip(wanted, 1, GROUP_LIMIT).astype(np.uint8)
    steps = scale[:, None] * group_scale
    each = np.repeat(steps, terms, axis=1)[:, : value.shape[1]]
    values = np.clip(np.rint(value / each), -INT8_LIMIT, INT8_LIMIT).astype(np.int8)
    return values, scale, group_scale


def pack_groups(group_scale: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8 [n, groups] -> [n / 16, groups, 16], n rounded up with rows of zeros."""
    n, groups = group_scale.shape
    padded = np.pad(group_scale, ((0, -n % BLOCK_COLUMNS), (0, 0)))
    blocks = padded.reshape(-1, BLOCK_COLUMNS, groups)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1))


def rests_of_groups(
    value: Float32,
    values: npt.NDArray[np.int8],
    scale: Float32,
    group_scale: npt.NDArray[np.uint8],
    terms: int,
) -> npt.NDArray[np.int8]:
    """What `quantize_groups` left of a matrix [n, k], int8 [n, k].

    The matrix is scale * group_scale * (values + rests / FITTING_STEPS).
    """
    each = np.repeat(scale[:, None] * group_scale, terms, axis=1)[:, : value.shape[1]]
    return np.rint((value / each - values) * FITTING_STEPS).astype(np.int8)


def quantize_with_rests(
    value: Float32,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8], Float32]:
    """A matrix [n, k] as bytes b and their rests r, int8 [n, k] each, and a scale [n].

    It is scale * (b + r / 256), b and scale being those of `quantize_int8`. r is 127 at most, so
    that its products sum to no more than a byte's.
    """
    values, scale = quantize_int8(value)
    left = np.rint((value / scale[:, None] - values) * REST_STEPS)
    return values, np.clip(left, -INT8_LIMIT, INT8_LIMIT).astype(np.int8), scale


def sums_of_four(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[n, k] -> [n, k / 2]: of each four terms that share a 16-bit sum, those above and below 0.

    Of every eight terms the first two and the fifth and sixth share one, the others another.
    """
    n, k = values.shape
    runs = values.reshape(n, k // 8, 2, 2, 2)  # fours of a run, pairs of a four, terms of a pair
    above = np.maximum(runs, 0).sum(axis=(2, 4))
    below = np.maximum(-runs, 0).sum(axis=(2, 4))
    return np.concatenate([above, below], axis=-1).reshape(n, -1)


def fits_packed(packed: npt.NDArray[Any]) -> bool:
    """Whether a matrix as `pack_int8` makes it, 8 dividing its terms, fits CPUs without VNNI."""
    blocks, steps, columns, terms = packed.shape
    values = packed.astype(np.int16).transpose(0, 2, 1, 3).reshape(blocks * columns, steps * terms)
    return int(sums_of_four(values).max(initial=0)) <= FOUR_LIMIT


def pack_int8(values: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """int8 [n, k] -> [n / 16, k / 4, 16, 4], n rounded up with rows of zeros; 4 divides k."""
    n, k = values.shape
    padded = np.pad(values, ((0, -n % BLOCK_COLUMNS), (0, 0)))
    blocks = padded.reshape(-1, BLOCK_COLUMNS, k // BLOCK_TERMS, BLOCK_TERMS)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3))


def pack_halves(values: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """int8 [n, k] -> uint8 [2, n / 16, k / 8, 16, 4], for kernels/half_bytes.mojo.

    First the upper four bits of every value plus 128, then the lower four. Of eight terms the first
    four are a byte's lower half, the next four its upper one; 8 divides k.
    """
    packed = pack_int8(values).view(np.uint8) ^ 128
    blocks, steps, *block = packed.shape
    first, second = np.moveaxis(packed.reshape(blocks, steps // 2, 2, *block), 2, 0)
    return np.stack([(first >> 4) | (second & 0xF0), (first & 15) | (second << 4)])


def sieve_bounds(
    values: npt.NDArray[np.int8], rests: npt.NDArray[np.int8] | None = None
) -> Float32:
    """float32 [3]: what the sieve of a token embedding [n, k] leaves out at most.

    See kernels/sieve.mojo. The largest over all tokens, but for those of zeros: the mean square of
    the lower halves and rests less their middle 7.5; of the bytes and rests; and how far the mean
    of the lower halves and rests is from 7.5.
    """
    told = values.any(axis=1)
    rows = values[told]
    if not len(rows):
        return np.zeros(3, np.float32)
    left = np.float32(0) if rests is None else rests[told] / np.float32(REST_STEPS)
    off = (rows & 15) + left - np.float32(7.5)
    squares = np.square(off).mean(axis=1), np.square(rows + left).mean(axis=1)
    bounds = (*(square.max() for square in squares), np.abs(off.mean(axis=1)).max())
    return np.array(bounds, np.float32)
