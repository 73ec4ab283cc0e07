"""How a matrix is stored in int8: the tensors it becomes, and what each of them holds.

`int8_parts` is the table of them. Beside the values, "x.weight", lie a scale for each row,
"x.scale", and others of the matrix's form; quantize.py does the rounding and packing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mwc.compiler.quantize import (
    BLOCK_COLUMNS,
    BLOCK_TERMS,
    OF_ZEROS,
    pack_groups,
    pack_halves,
    pack_int8,
    quantize_groups,
    quantize_int8,
    quantize_with_rests,
    rests_of_groups,
    sieve_bounds,
)
from mwc.runtime.spec import TensorSpec

Array = npt.NDArray[np.generic]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Int8Form:
    """How a matrix is stored where the artifact's precision is int8.

    Attributes:
        is_embedding: whether it is the token embedding, whose int8 values are stored as halves
            (kernels/half_bytes.mojo), with their `sieve_bounds`, and have a scale per column too: a
            few of its columns are many times the others, and its rounding is what the logits show
            most (tiny.en: root mean square error 0.026 with, 0.154 without).
        rests: of how many of its rows, the last ones, what rounding their int8 values left is
            stored too, as "x.rest", so that they have 16 bits (kernels/token_embedding.mojo,
            kernels/wide_int8.mojo); of a token embedding all or none.
        fits: whether kernels for many rows use it, so that int8 values have to fit CPUs without
            VNNI: sums of four 8-bit products in 16 bits; see kernels/quantized.mojo.
        group_terms: terms of a row of its int8 values that share a scale beside the row's; 0: all.
            Steps wait for memory, so that scales of few terms cost them next to nothing. The
            encoder pays for each group, and has none where that brings least: in fc1, and in the
            keys and values for the decoder (benchmarks/int8-error.md).
    """

    is_embedding: bool = False
    rests: int = 0
    fits: bool = False
    group_terms: int = 0


@dataclass(frozen=True)
class Int8Matrix:
    """A quantized matrix [n, k], not packed yet; what its form has not is empty.

    Attributes:
        values: int8 [n, k].
        scale: float32 [n].
        rests: int8 [rests, k], of the last rows.
        group_scale: uint8 [n, groups].
        column_scale: float32 [k].
    """

    values: npt.NDArray[np.int8]
    scale: Float32
    rests: npt.NDArray[np.int8]
    group_scale: npt.NDArray[np.uint8]
    column_scale: Float32


@dataclass(frozen=True)
class Int8Part:
    """One tensor that an int8 matrix becomes.

    Attributes:
        spec: its name, dtype and shape in the weight file.
        of: takes it from the quantized matrix.
    """

    spec: TensorSpec
    of: Callable[[Int8Matrix], Array]


def int8_parts(name: str, shape: tuple[int, ...], form: Int8Form) -> tuple[Int8Part, ...]:
    """What a matrix [n, k] of that name and form becomes, in the order of the weight file."""
    n, k = shape
    blocks, rest_blocks = -(-n // BLOCK_COLUMNS), -(-form.rests // BLOCK_COLUMNS)
    packed = (k // BLOCK_TERMS, BLOCK_COLUMNS, BLOCK_TERMS)
    halves = (k // (2 * BLOCK_TERMS), BLOCK_COLUMNS, BLOCK_TERMS)
    groups = (blocks, -(-k // (form.group_terms or k)), BLOCK_COLUMNS)
    token = form.is_embedding
    table: tuple[tuple[bool, str, str, tuple[int, ...], Callable[[Int8Matrix], Array]], ...] = (
        (not token, "weight", "int8", (blocks, *packed), lambda m: pack_int8(m.values)),
        (token, "weight", "uint8", (2, blocks, *halves), lambda m: pack_halves(m.values)),
        (True, "scale", "float32", (n,), lambda m: m.scale),
        (not token, "group_scale", "uint8", groups, lambda m: pack_groups(m.group_scale)),
        (token, "column_scale", "float32", (k,), lambda m: m.column_scale),
        (token, "sieve_bounds", "float32", (3,), _sieve_bounds),
        (form.rests > 0, "rest", "int8", (rest_blocks, *packed), lambda m: pack_int8(m.rests)),
    )
    return tuple(
        Int8Part(TensorSpec(scale_name(name, kind), dtype, sizes), of)
        for is_stored, kind, dtype, sizes, of in table
        if is_stored
    )


def scale_name(name: str, kind: str = "scale") -> str:
    """The name under which an int8 matrix's scales are stored, or another part of it."""
    return f"{name.removesuffix('.weight')}.{kind}"


def quantize(value: Float32, form: Int8Form) -> Int8Matrix:
    """Round a matrix, float32 [n, k], to what its form stores; 8 divides k."""
    return _quantize_embedding(value, form) if form.is_embedding else _quantize_rows(value, form)


class Quantizer:
    """Quantizes matrices whose parts are asked for one by one.

    The last ones are kept until others are asked for, so parts that follow each other come of one
    quantization, in any other order of several, and never are two matrices, or two stacks of them,
    held in memory.
    """

    def __init__(self) -> None:
        self._kept: tuple[str, list[Int8Matrix]] | None = None

    def make(
        self, part: Int8Part, name: str, form: Int8Form, reads: Sequence[Callable[[], Float32]]
    ) -> list[Array]:
        """Make a part of each matrix; `reads` give those, float32 [n, k], that are not kept."""
        kept = self._kept
        if kept is None or kept[0] != name:
            kept = self._kept = None  # the others go before these take room
            kept = self._kept = name, [quantize(read(), form) for read in reads]
        return [part.of(matrix) for matrix in kept[1]]


def _quantize_rows(value: Float32, form: Int8Form) -> Int8Matrix:
    terms = form.group_terms or value.shape[1]
    values, scale, group_scale = quantize_groups(value, terms, fits=form.fits)
    last = slice(len(value) - form.rests, None)
    rests = rests_of_groups(value[last], values[last], scale[last], group_scale[last], terms)
    return Int8Matrix(values, scale, rests, group_scale, np.empty(0, np.float32))


def _quantize_embedding(value: Float32, form: Int8Form) -> Int8Matrix:
    columns: Float32 = np.abs(value).max(axis=0, initial=np.float32(OF_ZEROS))
    value = value / columns
    if form.rests:
        values, rests, scale = quantize_with_rests(value)
    else:
        values, scale = quantize_int8(value)
        rests = values[:0]
    return Int8Matrix(values, scale, rests, np.empty((len(value), 0), np.uint8), columns)


def _sieve_bounds(matrix: Int8Matrix) -> Float32:
    return sieve_bounds(matrix.values, matrix.rests if len(matrix.rests) else None)
