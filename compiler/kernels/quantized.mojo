"""int8 weights and integer activations: the layout, and the products of a register.

A matrix of n columns (outputs) and k terms is stored as int8 [n / 16, k / 4, 16, 4], n rounded up
to a whole block, with one f32 scale per column: column j's term c is scale[j] times the byte at
[j / 16, c / 4, j % 16, c % 4]. Four terms of sixteen columns fill one 64-byte register, as the
dot-product instructions want them. A column's terms are in groups, of GROUP_TERMS in the decoder,
and of LONG_GROUP, or all in one, in the encoder (the last one may be smaller). Each has another
scale, uint8 [n / 16, groups, 16]: a weight is scale[j] times that times the byte.

Activations are quantized row by row as they are used (rounding.mojo): to 16 bits where few rows are
multiplied (decoding, which waits for the weights anyhow; word_sums.mojo), to 8 bits with an offset
where many are (the encoder; byte_sums.mojo). Sums are whole numbers and exact, so they do not depend on the order of addition; those of
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
comptime BESIDE = AVX512_WORDS
"""Whether there are registers for other work between products."""
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
