"""A stand-in on a CPU for matmul_gpu.mojo, the product on tensor cores."""

import extensibility
from extensibility import InputTensor, OutputTensor

from .linear import NONE
from .linear_gpu import product_plain


@extensibility.register("mwc_gpu_matmul")
struct GPUMatmul:
    @staticmethod
    def execute[target: StaticString, ACT: DType](
        y: OutputTensor[dtype=ACT, rank=2, ...],
        x: InputTensor[dtype=ACT, rank=2, ...],
        w: InputTensor[dtype=ACT, rank=2, ...],
    ) raises:
        product_plain[NONE](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), w.unsafe_ptr(), w.unsafe_ptr(),
            x.dim_size(0), y.dim_size(1), x.dim_size(1),
        )
