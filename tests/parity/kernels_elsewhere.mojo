"""Calls the kernels' functions once each, so that they are compiled for a CPU that is not here.

`test_kernels_elsewhere.py` reads the assembly; nothing runs this.
"""

from kernels.attention import CacheShape, cross_attend, self_attend
from kernels.cross_attention_int8 import attend_bytes
from kernels.encoder_attention import attend_group
from kernels.encoder_attention_int8 import attend_windows_int8
from kernels.linear import BIAS_GELU, BIAS_RESIDUAL, product
from kernels.linear_int8 import product_int8
from kernels.sieve import likely_logits
from kernels.matmul import multiply
from kernels.matmul_int8 import multiply_int8

comptime SIZE = 1 << 16


def values[T: DType]() -> List[Scalar[T]]:
    return List[Scalar[T]](length=SIZE, fill=1)


def products[T: DType]() raises:
    var y = values[DType.float32]()
    var x = values[DType.float32]()
    var bias = values[DType.float32]()
    var residual = values[DType.float32]()
    var w = values[T]()
    product[T, BIAS_GELU](
        y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), residual.unsafe_ptr(), 3, 16, 64
    )
    multiply[T, BIAS_RESIDUAL](
        y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), residual.unsafe_ptr(), 13, 16, 64
    )


def attention[T: DType]() raises:
    var mixed = values[DType.float32]()
    var qkv = values[DType.float32]()
    var other = values[DType.float32]()
    var keys = values[T]()
    var entries = values[T]()
    var rows = values[DType.int32]()
    var positions = values[DType.int32]()
    var shape = CacheShape(1, 1 << 10, 1 << 10, 0)
    self_attend[T](
        mixed.unsafe_ptr(), keys.unsafe_ptr(), entries.unsafe_ptr(), qkv.unsafe_ptr(),
        rows.unsafe_ptr(), positions.unsafe_ptr(), 2, shape,
    )
    cross_attend[T](
        mixed.unsafe_ptr(), keys.unsafe_ptr(), entries.unsafe_ptr(), qkv.unsafe_ptr(),
        rows.unsafe_ptr(), 5, 16, shape,
    )
    var others = values[DType.float32]()
    var scores = values[DType.float32]()
    var queries = values[DType.float32]()
    var scale = values[DType.float32]()
    attend_group(
        mixed.unsafe_ptr(), qkv.unsafe_ptr(), other.unsafe_ptr(), others.unsafe_ptr(),
        scores.unsafe_ptr(), queries.unsafe_ptr(), scale.unsafe_ptr(), 5, 16, 32, 64,
    )


def of_bytes() raises:
    var y = values[DType.float32]()
    var x = values[DType.float32]()
    var gamma = values[DType.float32]()
    var beta = values[DType.float32]()
    var scale = values[DType.float32]()
    var bias = values[DType.float32]()
    var residual = values[DType.float32]()
    var w = values[DType.int8]()
    var bytes = values[DType.uint8]()
    var entries = values[DType.uint8]()
    var words = values[DType.int16]()
    var states = values[DType.int32]()
    var wanted = values[DType.int32]()
    product_int8[BIAS_GELU](
        y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), scale.unsafe_ptr(), bias.unsafe_ptr(),
        residual.unsafe_ptr(), 15, 16, 64,
    )
    multiply_int8[BIAS_GELU, True](
        y.unsafe_ptr(), x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(), w.unsafe_ptr(),
        scale.unsafe_ptr(), bias.unsafe_ptr(), residual.unsafe_ptr(), 13, 16, 64,
    )
    likely_logits(
        y.unsafe_ptr(), x.unsafe_ptr(), bytes.unsafe_ptr(), entries.unsafe_ptr(), scale.unsafe_ptr(),
        beta.unsafe_ptr(), wanted.unsafe_ptr(), bias.unsafe_ptr(), states.unsafe_ptr(), 90, 5, 100, 64,
    )
    attend_windows_int8(y.unsafe_ptr(), x.unsafe_ptr(), 1, 17, 64)
    attend_bytes[4](
        y.unsafe_ptr(), x.unsafe_ptr(), 64, bytes.unsafe_ptr(), entries.unsafe_ptr(),
        scale.unsafe_ptr(), words.unsafe_ptr(), 16, 16,
    )


def main() raises:
    products[DType.float32]()
    products[DType.bfloat16]()
    products[DType.float16]()
    attention[DType.float32]()
    attention[DType.bfloat16]()
    attention[DType.float16]()
    of_bytes()
