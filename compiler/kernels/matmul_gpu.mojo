"""Products of many rows on a GPU's tensor cores: MAX's pipelined kernel, in one configuration.

MAX's own op compiles its kernels once for every shape and range of rows, which takes minutes for
each; this is one kernel for a shape.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from layout import Coord, TileTensor, row_major
from linalg.matmul.gpu import multistage_gemm
from linalg.utils_gpu import MatmulKernels
from max.gpu.host import DeviceContext


@extensibility.register("mwc_gpu_matmul")
struct GPUMatmul:
    """y[m, n] = x[m, k] · w[n, k]ᵀ in bfloat16, f32 sums; 128 divides n, 32 divides k."""

    @staticmethod
    def execute[target: StaticString, ACT: DType](
        y: OutputTensor[dtype=ACT, rank=2, ...],
        x: InputTensor[dtype=ACT, rank=2, ...],
        w: InputTensor[dtype=ACT, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        comptime config = MatmulKernels[ACT, ACT, ACT, True]().ampere_128x128_4
        var m = x.dim_size(0)
        var n = y.dim_size(1)
        var k = x.dim_size(1)
        # Without the sizes that the tensors' types carry: they would make a kernel of each.
        multistage_gemm[transpose_b=True, config=config](
            TileTensor(y.unsafe_ptr(), row_major(Coord(m, n))),
            TileTensor(x.unsafe_ptr(), row_major(Coord(m, k))),
            TileTensor(w.unsafe_ptr(), row_major(Coord(n, k))),
            ctx,
        )
