"""A stand-in on a CPU for embed_gpu.mojo, in plain loops."""

import extensibility
from extensibility import InputTensor, OutputTensor

comptime F32 = DType.float32
comptime I32 = DType.int32


@extensibility.register("mwc_gpu_embed")
struct GPUEmbed:
    @staticmethod
    def execute[target: StaticString, OUT: DType, T: DType](
        y: OutputTensor[dtype=OUT, rank=2, ...],
        tokens: InputTensor[dtype=I32, rank=1, ...],
        positions: InputTensor[dtype=I32, rank=1, ...],
        embedding: InputTensor[dtype=T, rank=2, ...],
        table: InputTensor[dtype=F32, rank=2, ...],
    ) raises:
        var width = y.dim_size(1)
        for i in range(y.dim_size(0)):
            var token = Int(tokens.unsafe_ptr()[unsafe_offset=i])
            var position = Int(positions.unsafe_ptr()[unsafe_offset=i])
            for c in range(width):
                var own = embedding.unsafe_ptr()[unsafe_offset=token * width + c].cast[F32]()
                var sum = own + table.unsafe_ptr()[unsafe_offset=position * width + c]
                y.unsafe_ptr()[unsafe_offset=i * width + c] = sum.cast[OUT]()
