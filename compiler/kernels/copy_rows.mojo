"""Copying self-attention caches between row slots: how beams that split share their past."""

import extensibility
from extensibility import InputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.gpu.host import DeviceContext

from .attention import HEAD, KEY_BLOCK, LANES
from .attention_gpu import copy_rows_gpu
from .parallel import share


@extensibility.register("mwc_copy_rows")
struct CopyRows:
    """Copy the first lengths[i] positions of row sources[i] to row targets[i], in every layer.

    Inputs: self_k, self_v (caches; see attention.mojo), sources, targets, lengths int32 [n]. No
    slot may be both a source and a target. No output.
    """

    @staticmethod
    def execute[target: StaticString, KV: DType](
        self_k: MutableInputTensor[dtype=KV, rank=6, ...],
        self_v: MutableInputTensor[dtype=KV, rank=5, ...],
        sources: InputTensor[dtype=DType.int32, rank=1, ...],
        targets: InputTensor[dtype=DType.int32, rank=1, ...],
        lengths: InputTensor[dtype=DType.int32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime if target == "gpu":
            copy_rows_gpu(self_k, self_v, sources, targets, lengths, ctx)
            return
        var layers = self_k.dim_size(0)
        var slots = self_k.dim_size(1)
        var heads = self_k.dim_size(2)
        var key_size = self_k.dim_size(3) * KEY_BLOCK
        var value_size = self_v.dim_size(3) * HEAD
        var key_ptr = self_k.unsafe_ptr()
        var value_ptr = self_v.unsafe_ptr()
        var source_ptr = sources.unsafe_ptr()
        var target_ptr = targets.unsafe_ptr()
        var length_ptr = lengths.unsafe_ptr()

        def head_of_copy(item: Int) {var layers, var slots, var heads, var key_size, var value_size, var key_ptr, var value_ptr, var source_ptr, var target_ptr, var length_ptr}:
            var head = item % heads
            var layer = (item // heads) % layers
            var i = item // (heads * layers)
            var length = Int(length_ptr[unsafe_offset=i])
            var source = (layer * slots + Int(source_ptr[unsafe_offset=i])) * heads + head
            var goal = (layer * slots + Int(target_ptr[unsafe_offset=i])) * heads + head
            var keys = (length + LANES - 1) // LANES * KEY_BLOCK
            for j in range(0, keys, LANES):
                key_ptr.unsafe_store(
                    goal * key_size + j, key_ptr.unsafe_load[width=LANES](source * key_size + j)
                )
            for j in range(0, length * HEAD, LANES):
                value_ptr.unsafe_store(
                    goal * value_size + j,
                    value_ptr.unsafe_load[width=LANES](source * value_size + j),
                )

        share(head_of_copy, sources.dim_size(0) * layers * heads)
