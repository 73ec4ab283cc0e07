"""Stand-ins on a CPU for linear_gpu.mojo: the same operations in plain loops, f32 inside."""

import extensibility
from extensibility import InputTensor, OutputTensor

from .linear import BIAS, BIAS_GELU, BIAS_RESIDUAL, NONE, gelu
from .parallel import share

comptime F32 = DType.float32


def product_plain[
    WT: DType, ACT: DType, OUT: DType, BT: DType, RT: DType, //, epilogue: Int
](
    y: Pointer[mut=True, Scalar[OUT], _],
    x: Pointer[Scalar[ACT], _],
    w: Pointer[Scalar[WT], _],
    bias: Pointer[Scalar[BT], _],
    residual: Pointer[Scalar[RT], _],
    m: Int,
    n: Int,
    k: Int,
) raises:
    """y[m, n] = epilogue(x[m, k] · w[n, k]ᵀ); bias and residual are read where it names them."""

    def row_of(i: Int) {var y, var x, var w, var bias, var residual, var n, var k}:
        for j in range(n):
            var sum = Float32(0)
            for c in range(k):
                var a = x[unsafe_offset=i * k + c].cast[F32]()
                sum += a * w[unsafe_offset=j * k + c].cast[F32]()
            comptime if epilogue != NONE:
                sum += bias[unsafe_offset=j].cast[F32]()
            comptime if epilogue == BIAS_GELU:
                sum = gelu[1](sum)
            comptime if epilogue == BIAS_RESIDUAL:
                sum += residual[unsafe_offset=i * n + j].cast[F32]()
            y[unsafe_offset=i * n + j] = sum.cast[OUT]()

    share(row_of, m)


@extensibility.register("mwc_gpu_product")
struct GPUProduct:
    @staticmethod
    def execute[target: StaticString, OUT: DType, ACT: DType, WT: DType, width: Int](
        y: OutputTensor[dtype=OUT, rank=2, ...],
        x: InputTensor[dtype=ACT, rank=2, ...],
        w: InputTensor[dtype=WT, rank=2, ...],
    ) raises:
        product_plain[NONE](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), w.unsafe_ptr(), w.unsafe_ptr(),
            x.dim_size(0), y.dim_size(1), x.dim_size(1),
        )


@extensibility.register("mwc_gpu_linear")
struct GPULinear:
    @staticmethod
    def execute[
        target: StaticString, ACT: DType, WT: DType, activation: Int, width: Int
    ](
        y: OutputTensor[dtype=ACT, rank=2, ...],
        x: InputTensor[dtype=ACT, rank=2, ...],
        w: InputTensor[dtype=WT, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
    ) raises:
        comptime epilogue = BIAS_GELU if activation == 1 else BIAS
        product_plain[epilogue](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), x.unsafe_ptr(),
            x.dim_size(0), y.dim_size(1), x.dim_size(1),
        )


@extensibility.register("mwc_gpu_linear_residual")
struct GPULinearResidual:
    @staticmethod
    def execute[target: StaticString, ACT: DType, WT: DType, width: Int](
        y: OutputTensor[dtype=ACT, rank=2, ...],
        x: InputTensor[dtype=ACT, rank=2, ...],
        w: InputTensor[dtype=WT, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        residual: InputTensor[dtype=ACT, rank=2, ...],
    ) raises:
        product_plain[BIAS_RESIDUAL](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(),
            residual.unsafe_ptr(), x.dim_size(0), y.dim_size(1), x.dim_size(1),
        )
