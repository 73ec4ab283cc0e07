"""Stand-ins on a CPU for few_rows_gpu.mojo, the products of few rows on tensor cores."""

import extensibility
from extensibility import InputTensor, OutputTensor

from .linear import BIAS, BIAS_GELU, BIAS_RESIDUAL, NONE
from .linear_gpu import product_plain
from .norm_gpu import norm_plain

comptime F32 = DType.float32


@extensibility.register("mwc_gpu_few_rows")
struct GPUFewRows:
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


@extensibility.register("mwc_gpu_norm_few_rows")
struct GPUNormFewRows:
    @staticmethod
    def execute[target: StaticString, T: DType, activation: Int](
        y: OutputTensor[dtype=T, rank=2, ...],
        normed: OutputTensor[dtype=T, rank=2, ...],
        x: InputTensor[dtype=T, rank=2, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w: InputTensor[dtype=T, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
    ) raises:
        comptime epilogue = BIAS_GELU if activation == 1 else BIAS
        norm_plain(
            normed.unsafe_ptr(), x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(),
            x.dim_size(0), x.dim_size(1),
        )
        product_plain[epilogue](
            y.unsafe_ptr(), normed.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), x.unsafe_ptr(),
            x.dim_size(0), y.dim_size(1), x.dim_size(1),
        )


@extensibility.register("mwc_gpu_few_rows_product")
struct GPUFewRowsProduct:
    @staticmethod
    def execute[target: StaticString, T: DType](
        y: OutputTensor[dtype=F32, rank=2, ...],
        x: InputTensor[dtype=T, rank=2, ...],
        w: InputTensor[dtype=T, rank=2, ...],
    ) raises:
        product_plain[NONE](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), w.unsafe_ptr(), w.unsafe_ptr(),
            x.dim_size(0), y.dim_size(1), x.dim_size(1),
        )


@extensibility.register("mwc_gpu_few_rows_residual")
struct GPUFewRowsResidual:
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
