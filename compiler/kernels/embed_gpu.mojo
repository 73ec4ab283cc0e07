"""Tokens to vectors on GPUs: each token's row of the embedding plus its position's of the table."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.primitives.grid_controls import launch_dependent_grids, wait_on_dependent_grids

from .early_launch_gpu import early_launch

comptime F32 = DType.float32
comptime I32 = DType.int32
comptime THREADS = 128


def embed_kernel[OUT: DType, T: DType](
    y: Pointer[Scalar[OUT], MutAnyOrigin],
    tokens: Pointer[Int32, ImmutAnyOrigin],
    positions: Pointer[Int32, ImmutAnyOrigin],
    embedding: Pointer[Scalar[T], ImmutAnyOrigin],
    table: Pointer[Float32, ImmutAnyOrigin],
    state: Int32,
):
    """A block for each token; its threads take columns in turn."""
    launch_dependent_grids()
    wait_on_dependent_grids()
    var width = Int(state)
    var i = Int(block_idx.x)
    var own = embedding.unsafe_offset(Int(tokens[unsafe_offset=i]) * width)
    var place = table.unsafe_offset(Int(positions[unsafe_offset=i]) * width)
    for c in range(Int(thread_idx.x), width, THREADS):
        var sum = own[unsafe_offset=c].cast[F32]() + place[unsafe_offset=c]
        y[unsafe_offset=i * width + c] = sum.cast[OUT]()


@extensibility.register("mwc_gpu_embed")
struct GPUEmbed:
    """y[n, state] of tokens and positions [n], embedding [n_vocab, state], table f32 [., state]."""

    @staticmethod
    def execute[target: StaticString, OUT: DType, T: DType](
        y: OutputTensor[dtype=OUT, rank=2, ...],
        tokens: InputTensor[dtype=I32, rank=1, ...],
        positions: InputTensor[dtype=I32, rank=1, ...],
        embedding: InputTensor[dtype=T, rank=2, ...],
        table: InputTensor[dtype=F32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        comptime kernel = embed_kernel[OUT, T]
        ctx.enqueue_function[kernel](
            y.unsafe_ptr(), tokens.unsafe_ptr(), positions.unsafe_ptr(), embedding.unsafe_ptr(),
            table.unsafe_ptr(), Int32(y.dim_size(1)),
            grid_dim=y.dim_size(0), block_dim=THREADS, attributes=early_launch(),
        )
