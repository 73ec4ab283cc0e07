"""Stand-ins on a CPU for matmul_gpu.mojo, the products of many rows on tensor cores."""

import extensibility
from extensibility import InputTensor, OutputTensor

from .linear import BIAS, BIAS_GELU, BIAS_RESIDUAL
from .linear_gpu import product_plain

comptime F32 = DType.float32


@extensibility.register("mwc_gpu_matmul")
struct GPUMatmul:
    @staticmethod
    def execute[target: StaticString, T: DType, activation: Int](
        y: OutputTensor[dtype=T, rank=2, ...],
        x: InputTensor[dtype=T, rank=2, ...],
        w: InputTensor[dtype=T, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
    ) raises:
        comptime epilogue = BIAS_GELU if activation == 1 else BIAS
        product_plain[epilogue](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), x.unsafe_ptr(),
            x.dim_size(0), y.dim_size(1), x.dim_size(1),
        )


@extensibility.register("mwc_gpu_matmul_residual")
struct GPUMatmulResidual:
    @staticmethod
    def execute[target: StaticString, T: DType](
        y: OutputTensor[dtype=T, rank=2, ...],
        x: InputTensor[dtype=T, rank=2, ...],
        w: InputTensor[dtype=T, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        residual: InputTensor[dtype=T, rank=2, ...],
    ) raises:
        product_plain[BIAS_RESIDUAL](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(),
            residual.unsafe_ptr(), x.dim_size(0), y.dim_size(1), x.dim_size(1),
        )
