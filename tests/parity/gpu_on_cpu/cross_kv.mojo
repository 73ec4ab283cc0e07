"""A stand-in on a CPU for cross_kv.mojo, whose activations are a GPU's: any float."""

import extensibility
from extensibility import InputTensor
from extensibility import _MutableInputTensor as MutableInputTensor

from .attention import HEAD, KEY_BLOCK, write_key, write_value
from .attention_ops import widened


@extensibility.register("mwc_store_cross_kv")
struct StoreCrossKV:
    @staticmethod
    def execute[target: StaticString, KV: DType, ACT: DType](
        cross_k: MutableInputTensor[dtype=KV, rank=6, ...],
        cross_v: MutableInputTensor[dtype=KV, rank=5, ...],
        kv: InputTensor[dtype=ACT, rank=3, ...],
        windows: InputTensor[dtype=DType.int32, rank=1, ...],
        layer: InputTensor[dtype=DType.int32, rank=1, ...],
    ) raises:
        var length = kv.dim_size(1)
        var heads = cross_k.dim_size(2)
        var state = heads * HEAD
        var first = Int(layer.unsafe_ptr()[unsafe_offset=0]) * cross_k.dim_size(1)
        var wide = widened(kv.unsafe_ptr(), kv.dim_size(0) * length * 2 * state)
        for i in range(kv.dim_size(0)):
            var window = first + Int(windows.unsafe_ptr()[unsafe_offset=i])
            for head in range(heads):
                var slot = window * heads + head
                var keys = cross_k.unsafe_ptr().unsafe_offset(
                    slot * cross_k.dim_size(3) * KEY_BLOCK
                )
                var values = cross_v.unsafe_ptr().unsafe_offset(slot * cross_v.dim_size(3) * HEAD)
                for t in range(length):
                    var source = wide.unsafe_ptr().unsafe_offset(
                        (i * length + t) * 2 * state + head * HEAD
                    )
                    write_key[KV](keys, source, t)
                    write_value[KV](values, source.unsafe_offset(state), t)
