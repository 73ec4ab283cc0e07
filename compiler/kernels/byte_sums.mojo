"""Products of bytes, of some rows with some blocks of columns, and other work between them."""

from .quantized import (
    BESIDE,
    COLUMNS,
    F32,
    I8,
    PAIRS,
    PIECES,
    QUADS,
    REGISTER,
    TERMS,
    U8,
    VNNI,
    Bytes,
    PairSums,
    Register,
    Sums,
    broadcast_bytes,
    dot_bytes,
    load_bytes,
)

comptime LATE = 4 if BESIDE else 0
"""The last products of a run (of QUADS * TERMS terms) for which rows take turns."""
comptime STRETCH = 4
"""Products of each sum between two pieces of other work: a hundred instructions, so that a CPU which
looks a few hundred ahead finds both."""
comptime PAIR = 2
"""Rows that take a turn together, which load columns anew."""


@always_inline
def add_products[rows: Int, blocks: Int, X: DType, W: DType, first: Int = 0, last: Int = rows](
    mut sums: Array[PairSums, rows * blocks * PIECES],
    x: Pointer[Scalar[X], _],
    stride: Int,
    w: Pointer[Scalar[W], _],
    apart: Int,
    c: Int,
):
    """Add the products of terms c … c + QUADS * TERMS to the sums of `sum_bytes`, of rows first … last."""
    comptime each = blocks * PIECES
    var columns = Array[Bytes[W], length=each](fill=Bytes[W](0))
    comptime for j in range(each):
        var at = j // PIECES * apart + c * COLUMNS + j % PIECES * REGISTER
        columns[j] = load_bytes(w.unsafe_offset(at))
    comptime for i in range(first, last):
        var terms = broadcast_bytes(x.unsafe_offset(i * stride + c))
        comptime for j in range(each):
            comptime at = i * each + j
            comptime if X == U8:
                sums[at] = dot_bytes(sums[at], rebind[Bytes[U8]](terms), rebind[Bytes[I8]](columns[j]))
            else:
                sums[at] = dot_bytes(sums[at], rebind[Bytes[U8]](columns[j]), rebind[Bytes[I8]](terms))


@always_inline
def sum_bytes[rows: Int, blocks: Int, X: DType, W: DType](
    x: Pointer[Scalar[X], _],
    stride: Int,
    w: Pointer[Scalar[W], _],
    apart: Int,
    k: Int,
) -> Array[Sums, rows * blocks]:
    """The sums of x[rows, k] over blocks of columns [k / 4, 16, 4]: of row i and block b at i * blocks + b.

    Rows are `stride` bytes apart, blocks `apart`; k is a multiple of 8. One of x and w is unsigned;
    the other is signed and, without VNNI, fits.
    """
    comptime assert (X == U8) != (W == U8)
    var sums = Array[PairSums, length=rows * blocks * PIECES](fill=PairSums(0))
    for c in range(0, k, QUADS * TERMS):
        add_products[rows, blocks](sums, x, stride, w, apart, c)
    return whole_sums[rows * blocks](sums)


@always_inline
def add_group[rows: Int, blocks: Int](
    mut totals: Array[Register, rows * blocks],
    mut sums: Array[PairSums, rows * blocks * PIECES],
    group_scale: Pointer[UInt8, _],
    apart: Int,
):
    """Add a group's sums times its columns' scales to the totals, and set the sums to 0.

    `group_scale`: the group's of the first block; those of the next one are `apart` bytes further.
    """
    var whole = whole_sums[rows * blocks](sums)
    comptime for b in range(blocks):
        var scales = group_scale.unsafe_load[width=COLUMNS](b * apart).cast[F32]()
        comptime for i in range(rows):
            comptime at = i * blocks + b
            totals[at] = whole[at].cast[F32]().fma(scales, totals[at])
    comptime for i in range(rows * blocks * PIECES):
        sums[i] = PairSums(0)


@always_inline
def no_work(item: Int):
    """Nothing between the products."""
    pass


@always_inline
def sum_byte_groups[rows: Int, blocks: Int, X: DType, W: DType, Work: def(Int) -> None](
    x: Pointer[Scalar[X], _],
    stride: Int,
    w: Pointer[Scalar[W], _],
    apart: Int,
    group_scale: Pointer[UInt8, _],
    group_terms: Int,
    k: Int,
    count: Int,
    work: Work,
) -> Array[Register, rows * blocks]:
    """What `sum_bytes` gives, group by group of so many terms, each times its scale.

    `group_scale`: the first block's. Calls work(0) … work(count - 1) between the products, which hide
    it.
    """
    comptime assert (X == U8) != (W == U8)
    comptime terms = QUADS * TERMS
    comptime stretch = STRETCH * terms
    var scales_apart = (k + group_terms - 1) // group_terms * COLUMNS
    var scales = group_scale
    var totals = Array[Register, length=rows * blocks](fill=Register(0))
    var sums = Array[PairSums, length=rows * blocks * PIECES](fill=PairSums(0))
    var item = 0
    var c = 0
    while c < k:
        var end = min(c + group_terms, k)
        while item < count and c + stretch <= end:
            comptime for step in range(STRETCH):
                add_products[rows, blocks](sums, x, stride, w, apart, c + step * terms)
            work(item)
            item += 1
            c += stretch
        while c < end:
            add_products[rows, blocks](sums, x, stride, w, apart, c)
            c += terms
        add_group[rows, blocks](totals, sums, scales, scales_apart)
        scales = scales.unsafe_offset(COLUMNS)
    while item < count:
        work(item)
        item += 1
    return totals^


@always_inline
def sum_bytes_beside[
    rows: Int, blocks: Int, k: Int, X: DType, W: DType,
    Work: def(Int) -> None, Finish: def(Int, Array[Sums, blocks]) -> None,
](
    x: Pointer[Scalar[X], _],
    stride: Int,
    w: Pointer[Scalar[W], _],
    apart: Int,
    start: Array[Int32, rows],
    work: Work,
    finish: Finish,
):
    """`start` and what `sum_bytes` gives, with other work between the products, which hide it.

    Products take one kind of a CPU's units all of the time; what others do meanwhile costs little,
    if it stands near enough. Calls work(0) … work(rows - 1), evenly spread, and finish(i, sums) of
    a row when its sums are there: of the last products, those of PAIR rows come before those of the
    next, so that rows end one after the other.
    """
    comptime assert (X == U8) != (W == U8)
    comptime each = blocks * PIECES
    comptime terms = QUADS * TERMS
    comptime steps = k // terms
    comptime together = steps - LATE
    var sums = Array[PairSums, length=rows * each](fill=PairSums(0))
    comptime for i in range(rows):
        comptime for j in range(each):
            sums[i * each + j] = PairSums(start[i])
    comptime for step in range(together):
        add_products[rows, blocks](sums, x, stride, w, apart, step * terms)
        comptime for i in range(rows):
            comptime if step == (i + 1) * together // (rows + 1):
                work(i)
    comptime for first in range(0, rows, PAIR):
        comptime last = min(first + PAIR, rows)
        comptime for step in range(together, steps):
            add_products[rows, blocks, first=first, last=last](
                sums, x, stride, w, apart, step * terms
            )
        comptime for i in range(first, last):
            var own = Array[PairSums, length=each](fill=PairSums(0))
            comptime for j in range(each):
                own[j] = sums[i * each + j]
            finish(i, whole_sums[blocks](own))


@always_inline
def whole_sums[count: Int](sums: Array[PairSums, count * PIECES]) -> Array[Sums, count]:
    """The sums of whole blocks of columns from those of their pieces."""
    var whole = Array[Sums, length=count](fill=Sums(0))
    comptime for i in range(count):
        comptime for piece in range(PIECES):
            whole[i] = whole[i].insert[offset=piece * PAIRS](sums[i * PIECES + piece])
    return whole^
