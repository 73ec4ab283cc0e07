"""Stand-ins on a CPU for decode_attention_gpu.mojo, whose activations are a GPU's: any float."""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor

from .attention import cross_attend, self_attend
from .attention_ops import narrow, shape_of, widened

comptime F32 = DType.float32


@extensibility.register("mwc_gpu_self_attention")
struct GPUSelfAttention:
    @staticmethod
    def execute[target: StaticString, KV: DType, ACT: DType, positions_held: Int, alone: Int](
        output: OutputTensor[dtype=ACT, rank=2, ...],
        self_k: MutableInputTensor[dtype=KV, rank=6, ...],
        self_v: MutableInputTensor[dtype=KV, rank=5, ...],
        qkv: InputTensor[dtype=ACT, rank=2, ...],
        rows: InputTensor[dtype=DType.int32, rank=1, ...],
        positions: InputTensor[dtype=DType.int32, rank=1, ...],
        layer: InputTensor[dtype=DType.int32, rank=1, ...],
    ) raises:
        var n = qkv.dim_size(0)
        var wide = widened(qkv.unsafe_ptr(), n * qkv.dim_size(1))
        var mixed = List[Float32](length=n * output.dim_size(1), fill=0)
        self_attend[KV](
            mixed.unsafe_ptr(), self_k.unsafe_ptr(), self_v.unsafe_ptr(), wide.unsafe_ptr(),
            rows.unsafe_ptr(), positions.unsafe_ptr(), n, shape_of(self_k, self_v, layer),
        )
        narrow(mixed, output.unsafe_ptr())


@extensibility.register("mwc_gpu_cross_attention")
struct GPUCrossAttention:
    @staticmethod
    def execute[target: StaticString, KV: DType, ACT: DType](
        output: OutputTensor[dtype=ACT, rank=2, ...],
        found: OutputTensor[dtype=F32, rank=4, ...],
        cross_k: MutableInputTensor[dtype=KV, rank=6, ...],
        cross_v: MutableInputTensor[dtype=KV, rank=5, ...],
        q: InputTensor[dtype=ACT, rank=2, ...],
        windows: InputTensor[dtype=DType.int32, rank=1, ...],
        layer: InputTensor[dtype=DType.int32, rank=1, ...],
    ) raises:
        var n = q.dim_size(0)
        var wide = widened(q.unsafe_ptr(), n * q.dim_size(1))
        var mixed = List[Float32](length=n * q.dim_size(1), fill=0)
        cross_attend[KV](
            mixed.unsafe_ptr(), cross_k.unsafe_ptr(), cross_v.unsafe_ptr(), wide.unsafe_ptr(),
            windows.unsafe_ptr(), n, cross_v.dim_size(3), shape_of(cross_k, cross_v, layer),
        )
        narrow(mixed, output.unsafe_ptr())
