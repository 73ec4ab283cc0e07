"""A stand-in on a CPU for norm_gpu.mojo, in plain loops."""

import extensibility
from extensibility import InputTensor, OutputTensor
from std.math import sqrt

comptime F32 = DType.float32


def norm_plain[T: DType, //](
    y: Pointer[mut=True, Scalar[T], _],
    x: Pointer[Scalar[T], _],
    gamma: Pointer[Float32, _],
    beta: Pointer[Float32, _],
    m: Int,
    k: Int,
):
    for i in range(m):
        var mean = Float32(0)
        for c in range(k):
            mean += x[unsafe_offset=i * k + c].cast[F32]() / Float32(k)
        var variance = Float32(0)
        for c in range(k):
            var apart = x[unsafe_offset=i * k + c].cast[F32]() - mean
            variance += apart * apart / Float32(k)
        for c in range(k):
            var apart = x[unsafe_offset=i * k + c].cast[F32]() - mean
            var value = apart / sqrt(variance + 1e-5) * gamma[unsafe_offset=c]
            y[unsafe_offset=i * k + c] = (value + beta[unsafe_offset=c]).cast[T]()


@extensibility.register("mwc_gpu_norm")
struct GPUNorm:
    @staticmethod
    def execute[target: StaticString, T: DType](
        y: OutputTensor[dtype=T, rank=2, ...],
        x: InputTensor[dtype=T, rank=2, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
    ) raises:
        norm_plain(
            y.unsafe_ptr(), x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(),
            x.dim_size(0), x.dim_size(1),
        )
