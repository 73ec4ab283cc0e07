"""int8 weights and integer activations: the layout, the quantization of rows, the dot products.

A matrix of n columns (outputs) and k terms is stored as int8 [n / 16, k / 4, 16, 4], n rounded up
to a whole block, with one f32 scale per column: column j's term c is scale[j] times the byte at
[j / 16, c / 4, j % 16, c % 4]. Four terms of sixteen columns fill one 64-byte register, as the
dot-product instructions want them. A column's terms are in groups, of GROUP_TERMS in the decoder,
and of LONG_GROUP, or all in one, in the encoder (the last one may be smaller). Each has another
scale, uint8 [n / 16, groups, 16]: a weight is scale[j] times that times the byte.

Activations are quantized row by row as they are used: to 16 bits where few rows are multiplied
(decoding, which waits for the weights anyhow), to 8 bits with an offset where many are (the
encoder). Sums are whole numbers and exact, so they do not depend on the order of addition; those of
groups are added in float32, always in the order of the groups.

VNNI adds products of bytes in 32 bits, so that bytes may take their whole range. Other CPUs add
four in 16 bits before they widen them, which is what makes bytes one and a half times as fast as
16-bit words there. So that this cannot overflow, unsigned bytes reach less far on these, and signed
ones that meet them have to "fit": of the four that share a sum (of each run of eight terms the
first two and the fifth and sixth, or the others) the positive ones times the largest unsigned byte
add up to no more than 16 bits hold, and so do the negative ones. weights.py sees to it for the
encoder's matrices, attention_int8.mojo for what is quantized as it is used.
"""

from std.memory import bitcast
from std.sys import CompilationTarget, llvm_intrinsic

from .linear import WIDTH, fetch_ahead, larger, smaller

comptime F32 = DType.float32
comptime I8 = DType.int8
comptime U8 = DType.uint8
comptime I32 = DType.int32
comptime COLUMNS = 16
"""Columns of one block of weights."""
comptime TERMS = 4
"""Terms that stand together."""
comptime STEP = COLUMNS * TERMS
"""Bytes of one register of weights."""
comptime VNNI = CompilationTarget.has_avx512f() and CompilationTarget._has_feature["avx512vnni"]()
comptime AVX512_WORDS = CompilationTarget.has_avx512f() and CompilationTarget._has_feature[
    "avx512bw"
]()
comptime PAIRS = 16 if AVX512_WORDS else 8
"""Pairs of 16-bit products summed by one instruction."""
comptime PARTS = STEP // 2 // PAIRS
"""Registers of 16-bit pairs that four terms of sixteen columns widen to."""
comptime REGISTER = 4 * PAIRS
"""Bytes of one register."""
comptime PIECES = STEP // REGISTER
"""Registers of bytes that four terms of sixteen columns are."""
comptime QUADS = 1 if VNNI else 2
"""How many times four terms are multiplied before their sums are widened to 32 bits."""
comptime MOST_SUMS = 24 if AVX512_WORDS else 8
"""Registers of sums that leave enough for the rest: there are 32 with AVX-512, else 16."""
comptime CHAINS = 8
"""Sums in flight that hide the latency of an instruction."""
comptime BESIDE = AVX512_WORDS
"""Whether there are registers for other work between products."""
comptime LATE = 4 if BESIDE else 0
"""The last products of a run (of QUADS * TERMS terms) for which rows take turns."""
comptime STRETCH = 4
"""Products of each sum between two pieces of other work: a hundred instructions, so that a CPU which
looks a few hundred ahead finds both."""
comptime PAIR = 2
"""Rows that take a turn together, which load columns anew."""
comptime Sums = SIMD[I32, COLUMNS]
"""One row's whole sums of the columns of a block."""
comptime PairSums = SIMD[I32, PAIRS]
comptime Register = SIMD[F32, COLUMNS]
comptime Words = SIMD[DType.int16, 2 * PAIRS]
comptime Bytes[T: DType] = SIMD[T, QUADS * REGISTER]
comptime GROUP_TERMS = 64
"""Terms of a column that share a scale in the decoder's matrices."""
comptime LONG_GROUP = 128
"""The same in the encoder's, where nothing waits for memory and adding a group's sums costs time."""
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
def word_limit(terms: Int) -> Float32:
    """The largest magnitude of 16-bit activations with which no sum of so many terms overflows."""
    return Float32(min(WORD_LIMIT, 2147483647 // (127 * terms)))


@always_inline
def dot_pairs(sums: PairSums, x: Words, w: Words) -> PairSums:
    """sums[i] + x[2i] · w[2i] + x[2i + 1] · w[2i + 1], in int32."""
    comptime if VNNI:
        return llvm_intrinsic["llvm.x86.avx512.vpdpwssd.512", PairSums](sums, x, w)
    elif AVX512_WORDS:
        return sums + llvm_intrinsic["llvm.x86.avx512.pmaddw.d.512", PairSums](x, w)
    elif CompilationTarget.has_avx2():
        return sums + llvm_intrinsic["llvm.x86.avx2.pmadd.wd", PairSums](x, w)
    else:
        var products = (x.cast[I32]() * w.cast[I32]()).deinterleave()
        return sums + rebind[PairSums](products[0]) + rebind[PairSums](products[1])


@always_inline
def multiply_pairs(x: SIMD[U8, REGISTER], w: SIMD[I8, REGISTER]) -> Words:
    """x[2i] · w[2i] + x[2i + 1] · w[2i + 1] in int16, for w that fits; not with VNNI's bytes."""
    comptime if AVX512_WORDS:
        return llvm_intrinsic["llvm.x86.avx512.pmaddubs.w.512", Words](x, w)
    elif CompilationTarget.has_avx2():
        return llvm_intrinsic["llvm.x86.avx2.pmadd.ub.sw", Words](x, w)
    else:
        var products = (x.cast[DType.int16]() * w.cast[DType.int16]()).deinterleave()
        return rebind[Words](products[0]) + rebind[Words](products[1])


@always_inline
def dot_four_bytes(sums: PairSums, x: SIMD[U8, REGISTER], w: SIMD[I8, REGISTER]) -> PairSums:
    """sums[i] + the four products of lane i, of one register, with VNNI."""
    comptime assert VNNI
    return llvm_intrinsic["llvm.x86.avx512.vpdpbusd.512", PairSums](sums, x, w)


@always_inline
def dot_bytes(sums: PairSums, x: Bytes[U8], w: Bytes[I8]) -> PairSums:
    """sums[i] + the four products of lane i, of each of QUADS registers; w fits without VNNI."""
    comptime if VNNI:
        return dot_four_bytes(
            sums, x.slice[REGISTER, offset=0](), w.slice[REGISTER, offset=0]()
        )
    var four = Words(0)
    comptime for q in range(QUADS):
        comptime at = q * REGISTER
        four += multiply_pairs(x.slice[REGISTER, offset=at](), w.slice[REGISTER, offset=at]())
    return dot_pairs(sums, four, Words(1))


@always_inline
def broadcast_words(x: Pointer[Int16, _]) -> Words:
    """TERMS 16-bit activations over and over."""
    var four = x.bitcast[Int64]()[unsafe_offset=0]
    return bitcast[DType.int16, 2 * PAIRS](SIMD[DType.int64, PAIRS // 2](four))


@always_inline
def broadcast_signed(x: Pointer[Int8, _]) -> SIMD[I8, REGISTER]:
    """TERMS 8-bit activations over and over."""
    return bitcast[I8, REGISTER](PairSums(x.bitcast[Int32]()[unsafe_offset=0]))


@always_inline
def broadcast_bytes[T: DType](x: Pointer[Scalar[T], _]) -> Bytes[T]:
    """QUADS times TERMS 8-bit values, each over and over to fill a register."""
    var bytes = Bytes[T](0)
    comptime for q in range(QUADS):
        var four = x.unsafe_offset(q * TERMS).bitcast[Int32]()[unsafe_offset=0]
        bytes = bytes.insert[offset=q * REGISTER](bitcast[T, REGISTER](PairSums(four)))
    return bytes


@always_inline
def load_bytes[T: DType](w: Pointer[Scalar[T], _]) -> Bytes[T]:
    """A register of columns of QUADS steps."""
    var bytes = Bytes[T](0)
    comptime for q in range(QUADS):
        var step = w.unsafe_load[width=REGISTER](q * STEP)
        bytes = bytes.insert[offset=q * REGISTER](step)
    return bytes


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
                        fetch_ahead(w.unsafe_offset(at * COLUMNS))
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


@always_inline
def largest_magnitude(x: Pointer[Float32, _], k: Int) -> Float32:
    """The largest |x| of a row of k values."""
    var lanes = SIMD[F32, WIDTH](0)
    for c in range(0, k, WIDTH):
        lanes = larger[WIDTH](lanes, abs(x.unsafe_load[width=WIDTH](c)))
    return lanes.reduce_max()


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
