"""What the decoder does with its caches on GPUs beside attention, and scores for alignment."""

from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.gpu import barrier, block_idx, grid_dim, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.memory import AddressSpace
from max.gpu.primitives.grid_controls import launch_dependent_grids, wait_on_dependent_grids
from std.memory import stack_allocation
from std.utils.index import IndexList

from .early_launch_gpu import early_launch

comptime F32 = DType.float32
comptime I32 = DType.int32
comptime HEAD = 64
comptime KEYS_PER_BLOCK = 16
comptime THREADS = 128
comptime TAKEN = 8
"""Neighbours that a thread reads at once."""
comptime PITCH = HEAD + TAKEN
"""From one position's keys to the next in shared memory: they start at other banks."""


def store_cross_kv_kernel[KV: DType, ACT: DType](
    keys: Pointer[Scalar[KV], MutAnyOrigin],
    values: Pointer[Scalar[KV], MutAnyOrigin],
    kv: Pointer[Scalar[ACT], ImmutAnyOrigin],
    windows: Pointer[Int32, ImmutAnyOrigin],
    layer: Pointer[Int32, ImmutAnyOrigin],
    n_windows: Int32,
    key_blocks: Int32,
    length: Int32,
):
    """Block (head, window, group of 16 positions): each thread reads eight neighbours.

    Values go where they belong at once; keys, which lie axis by axis, through shared memory.
    """
    comptime Taken = SIMD[ACT, TAKEN]
    launch_dependent_grids()
    wait_on_dependent_grids()
    var tid = Int(thread_idx.x)
    var heads = Int(grid_dim.x)
    var head = Int(block_idx.x)
    var i = Int(block_idx.y)
    var block = Int(block_idx.z)
    var at = (Int(layer[]) * Int(n_windows) + Int(windows[unsafe_offset=i])) * heads + head
    var lane = tid // (HEAD // TAKEN)
    var axis = tid % (HEAD // TAKEN) * TAKEN
    var t = block * KEYS_PER_BLOCK + lane
    var shared = stack_allocation[
        KEYS_PER_BLOCK * PITCH, Scalar[ACT], address_space=AddressSpace.SHARED, alignment=16
    ]()
    var key = Taken(0)
    if t < Int(length):
        var source = kv.unsafe_offset((i * Int(length) + t) * 2 * heads * HEAD + head * HEAD + axis)
        key = source.unsafe_load[width=TAKEN, alignment=16](0)
        var value = source.unsafe_load[width=TAKEN, alignment=16](heads * HEAD)
        values.unsafe_store[alignment=16](
            (at * Int(length) + t) * HEAD + axis, value.cast[KV]()
        )
    shared.unsafe_store[alignment=16](lane * PITCH + axis, key)
    barrier()
    var own_axis = tid // (KEYS_PER_BLOCK // TAKEN)
    var first = tid % (KEYS_PER_BLOCK // TAKEN) * TAKEN
    var turned = Taken(0)
    comptime for e in range(TAKEN):
        turned[e] = shared[unsafe_offset=(first + e) * PITCH + own_axis]
    keys.unsafe_store[alignment=16](
        ((at * Int(key_blocks) + block) * HEAD + own_axis) * KEYS_PER_BLOCK + first,
        turned.cast[KV](),
    )


def store_cross_kv_gpu[KV: DType, ACT: DType, //](
    cross_k: MutableInputTensor[dtype=KV, rank=6, ...],
    cross_v: MutableInputTensor[dtype=KV, rank=5, ...],
    kv: InputTensor[dtype=ACT, rank=3, ...],
    windows: InputTensor[dtype=I32, rank=1, ...],
    layer: InputTensor[dtype=I32, rank=1, ...],
    ctx: DeviceContext,
) raises:
    """Launch a block for each head, window and group of 16 positions."""
    var heads = cross_k.dim_size(2)
    var blocks = cross_k.dim_size(3)
    comptime kernel = store_cross_kv_kernel[KV, ACT]
    ctx.enqueue_function[kernel](
        cross_k.unsafe_ptr(), cross_v.unsafe_ptr(), kv.unsafe_ptr(), windows.unsafe_ptr(),
        layer.unsafe_ptr(), Int32(cross_k.dim_size(1)), Int32(blocks), Int32(cross_v.dim_size(3)),
        grid_dim=(heads, kv.dim_size(0), blocks),
        block_dim=HEAD * KEYS_PER_BLOCK // TAKEN,
        attributes=early_launch(),
    )


def alignment_scores_gpu[KV: DType, ACT: DType, //](
    output: OutputTensor[dtype=F32, rank=3, ...],
    cross_k: MutableInputTensor[dtype=KV, rank=6, ...],
    q: InputTensor[dtype=ACT, rank=2, ...],
    windows: InputTensor[dtype=I32, rank=1, ...],
    layer: InputTensor[dtype=I32, rank=1, ...],
    heads: InputTensor[dtype=I32, rank=1, ...],
    ctx: DeviceContext,
) raises:
    """One block per head and token; its threads take positions in turn."""

    @parameter
    def score(length: Int32):
        var h = Int(block_idx.x)
        var i = Int(block_idx.y)
        var head = Int(heads.load[1](IndexList[1](h)))
        var at_layer = Int(layer.load[1](IndexList[1](0)))
        var slot = Int(windows.load[1](IndexList[1](i)))
        for t in range(Int(thread_idx.x), Int(length), THREADS):
            var s = Float32(0)
            for d in range(HEAD):
                var at = IndexList[6](
                    at_layer, slot, head, t // KEYS_PER_BLOCK, d, t % KEYS_PER_BLOCK
                )
                var query = q.load[1](IndexList[2](i, head * HEAD + d)).cast[F32]()
                s += query * cross_k.load[1](at).cast[F32]()
            output.store[1](IndexList[3](h, i, t), s)

    ctx.enqueue_function[score](
        Int32(output.dim_size(2)),
        grid_dim=(heads.dim_size(0), q.dim_size(0)),
        block_dim=THREADS,
    )


def copy_rows_gpu[KV: DType, //](
    self_k: MutableInputTensor[dtype=KV, rank=6, ...],
    self_v: MutableInputTensor[dtype=KV, rank=5, ...],
    sources: InputTensor[dtype=I32, rank=1, ...],
    targets: InputTensor[dtype=I32, rank=1, ...],
    lengths: InputTensor[dtype=I32, rank=1, ...],
    ctx: DeviceContext,
) raises:
    """One block per head, layer and copy; one thread per axis of the head."""

    @parameter
    def copy():
        var head = Int(block_idx.x)
        var layer = Int(block_idx.y)
        var i = Int(block_idx.z)
        var d = Int(thread_idx.x)
        var source = Int(sources.load[1](IndexList[1](i)))
        var goal = Int(targets.load[1](IndexList[1](i)))
        for t in range(Int(lengths.load[1](IndexList[1](i)))):
            var block = t // KEYS_PER_BLOCK
            var lane = t % KEYS_PER_BLOCK
            self_k.store[1](
                IndexList[6](layer, goal, head, block, d, lane),
                self_k.load[1](IndexList[6](layer, source, head, block, d, lane)),
            )
            self_v.store[1](
                IndexList[5](layer, goal, head, t, d),
                self_v.load[1](IndexList[5](layer, source, head, t, d)),
            )

    ctx.enqueue_function[copy](
        grid_dim=(self_k.dim_size(2), self_k.dim_size(0), sources.dim_size(0)),
        block_dim=HEAD,
    )
