"""Storing the decoder's cross-attention keys and values of freshly encoded windows."""

import extensibility
from extensibility import InputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.gpu.host import DeviceContext

from .attention import HEAD, KEY_BLOCK, write_key, write_value
from .attention_gpu import store_cross_kv_gpu
from .parallel import share


@extensibility.register("mwc_store_cross_kv")
struct StoreCrossKV:
    """Put one layer's keys and values into the caches, at each window's slot.

    Inputs: cross_k, cross_v (caches; see attention.mojo for their layout), kv f32
    [b, length, 2 * state] (keys, then values), windows int32 [b], layer int32 [1]. No output.
    """

    @staticmethod
    def execute[target: StaticString, KV: DType, ACT: DType](
        cross_k: MutableInputTensor[dtype=KV, rank=6, ...],
        cross_v: MutableInputTensor[dtype=KV, rank=5, ...],
        kv: InputTensor[dtype=ACT, rank=3, ...],
        windows: InputTensor[dtype=DType.int32, rank=1, ...],
        layer: InputTensor[dtype=DType.int32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime if target == "gpu":
            store_cross_kv_gpu(cross_k, cross_v, kv, windows, layer, ctx)
            return
        var b = kv.dim_size(0)
        var length = kv.dim_size(1)
        var heads = cross_k.dim_size(2)
        var state = heads * HEAD
        var key_size = cross_k.dim_size(3) * KEY_BLOCK
        var value_size = cross_v.dim_size(3) * HEAD
        var first = Int(layer.unsafe_ptr()[unsafe_offset=0]) * cross_k.dim_size(1)
        var key_ptr = cross_k.unsafe_ptr()
        var value_ptr = cross_v.unsafe_ptr()
        var kv_ptr = kv.unsafe_ptr().bitcast[Float32]()
        var window_ptr = windows.unsafe_ptr()

        def head_of_window(item: Int) {var length, var heads, var state, var key_size, var value_size, var first, var key_ptr, var value_ptr, var kv_ptr, var window_ptr}:
            var i = item // heads
            var head = item % heads
            var slot = (first + Int(window_ptr[unsafe_offset=i])) * heads + head
            var keys = key_ptr.unsafe_offset(slot * key_size)
            var values = value_ptr.unsafe_offset(slot * value_size)
            for t in range(length):
                var source = kv_ptr.unsafe_offset((i * length + t) * 2 * state + head * HEAD)
                write_key[KV](keys, source, t)
                write_value[KV](values, source.unsafe_offset(state), t)

        share(head_of_window, b * heads)
