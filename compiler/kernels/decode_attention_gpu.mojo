"""The decoder's attention on GPUs: one query against a head's cached keys and values.

A block has one head of one token and a range of positions; its warps take blocks of 16 positions in
turn. Audio is long: its positions are shared by several blocks, and what each found is weighed by one
of them, where they can be a cluster, or by `combine_kernel`. The ranges are the same whatever else is
decoded at the same time: a row's result never depends on its neighbours.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.gpu import WARP_SIZE, barrier, block_idx, grid_dim, thread_idx
from max.gpu.host import DeviceContext, Dim
from max.gpu.memory import AddressSpace
from max.gpu.primitives.cluster import cluster_arrive_relaxed, cluster_sync, cluster_wait
from max.gpu.primitives.grid_controls import (
    launch_dependent_grids,
    wait_on_dependent_grids,
)
from std.math import exp
from std.memory import stack_allocation

from .architecture_gpu import has_clusters
from .attention_head_gpu import HEAD, KEYS, THREADS, WARPS, Head, softmax_of
from .cluster_gpu import MOST_BLOCKS, in_first_block, store_in_cluster
from .early_launch_gpu import early_launch
from .rules import LOWEST

comptime F32 = DType.float32
comptime I32 = DType.int32
comptime AUDIO_RANGE = 192
"""Positions of audio for a block."""
comptime FOUND = HEAD + 2
"""What a block finds: its sum of values, the highest score, the weights' sum."""
comptime PARTS = 8
"""Parts that 30 s of audio have, which are a cluster where there are such."""
comptime MOST_CLUSTERS = 160
"""Heads of tokens up to which they are: eight tokens of a large model.

Of more, blocks take turns, and those of a cluster begin only where eight can and end only together:
this costs more than a launch.
"""


def attend_own_kernel[KV: DType, ACT: DType, held: Int, writes: Bool](
    output: Pointer[Scalar[ACT], MutAnyOrigin],
    keys: Pointer[Scalar[KV], MutAnyOrigin],
    values: Pointer[Scalar[KV], MutAnyOrigin],
    qkv: Pointer[Scalar[ACT], ImmutAnyOrigin],
    rows: Pointer[Int32, ImmutAnyOrigin],
    positions: Pointer[Int32, ImmutAnyOrigin],
    layer: Pointer[Int32, ImmutAnyOrigin],
    n_rows: Int32,
    key_blocks: Int32,
    length: Int32,
):
    """Block (head, token): attend to the token's row up to its own position, below `held`.

    Queries are the first third of qkv [n, 3 * heads * 64]; keys [layers, rows, heads, key_blocks,
    64, 16], values [layers, rows, heads, length, 64]; output [n, heads * 64]. A block that `writes`
    puts the token's key and value there itself before: the row has no other token in this call.
    """
    comptime Own = Head[KV]
    comptime PADDED = (held + KEYS - 1) // KEYS * KEYS
    launch_dependent_grids()
    wait_on_dependent_grids()
    var tid = Int(thread_idx.x)
    var lane = tid % WARP_SIZE
    var own_warp = tid // WARP_SIZE
    var heads = output_heads()
    var head = Int(block_idx.x)
    var i = Int(block_idx.y)
    var at = (Int(layer[]) * Int(n_rows) + Int(rows[unsafe_offset=i])) * heads + head
    var head_keys = keys.unsafe_offset(at * Int(key_blocks) * KEYS * HEAD)
    var head_values = values.unsafe_offset(at * Int(length) * HEAD)
    var count = Int(positions[unsafe_offset=i]) + 1
    var blocks = (count + KEYS - 1) // KEYS
    var weights = stack_allocation[PADDED, Float32, address_space=AddressSpace.SHARED]()
    comptime if writes:
        write_own(head_keys, head_values, qkv, i, head, heads, count - 1, tid)
        barrier()
    var query = Own.query(qkv.unsafe_offset((i * 3 * heads + head) * HEAD), lane)
    var highest = LOWEST
    for block in range(own_warp, blocks, WARPS):
        var read = Own.keys(head_keys.unsafe_offset(block * KEYS * HEAD), lane)
        var score = Own.score(read, query, lane)
        var t = block * KEYS + Own.position(lane)
        weights[unsafe_offset=t] = score
        if t < count:
            highest = max(highest, score)
    var softmax = softmax_of(weights, count, blocks * KEYS, highest)
    var sums = SIMD[F32, Own.WIDTH](0)
    for block in range(own_warp, blocks, WARPS):
        var t = block * KEYS
        var read = Own.values(head_values.unsafe_offset(t * HEAD), count - t, lane)
        Own.mix(read, weights.unsafe_offset(t), sums, lane)
    var sum = Own.gather(sums, lane, own_warp)
    if tid < HEAD:
        output[unsafe_offset=(i * heads + head) * HEAD + tid] = (sum / softmax.total).cast[ACT]()


def attend_audio_kernel[KV: DType, ACT: DType, in_cluster: Bool](
    output: Pointer[Scalar[ACT], MutAnyOrigin],
    found: Pointer[Float32, MutAnyOrigin],
    keys: Pointer[Scalar[KV], ImmutAnyOrigin],
    values: Pointer[Scalar[KV], ImmutAnyOrigin],
    q: Pointer[Scalar[ACT], ImmutAnyOrigin],
    windows: Pointer[Int32, ImmutAnyOrigin],
    layer: Pointer[Int32, ImmutAnyOrigin],
    n_windows: Int32,
    key_blocks: Int32,
    length: Int32,
):
    """Block (head, token, part): attend to AUDIO_RANGE positions of the token's window.

    Queries [n, heads * 64]; keys and values as for `attend_own_kernel`, but of windows; `found` f32
    [n, heads, parts, FOUND]. Keys and values are read before the queries are there: they were
    written by another call. Where the parts, PARTS of them, are a cluster, the first puts together
    what they found, in its shared memory, as `combine_kernel` does: output [n, heads * 64].
    """
    comptime Own = Head[KV]
    comptime BLOCKS = AUDIO_RANGE // KEYS // WARPS
    """Of a warp."""
    launch_dependent_grids()
    comptime if in_cluster:
        # Waited for below: the first part's memory can be written when its block has begun.
        cluster_arrive_relaxed()
    var tid = Int(thread_idx.x)
    var lane = tid % WARP_SIZE
    var own_warp = tid // WARP_SIZE
    var heads = output_heads()
    var head = Int(block_idx.x)
    var i = Int(block_idx.y)
    var part = Int(block_idx.z)
    var first = part * AUDIO_RANGE
    var count = min(Int(length) - first, AUDIO_RANGE)
    var at = (Int(layer[]) * Int(n_windows) + Int(windows[unsafe_offset=i])) * heads + head
    var part_keys = keys.unsafe_offset((at * Int(key_blocks) * KEYS + first) * HEAD)
    var part_values = values.unsafe_offset((at * Int(length) + first) * HEAD)
    var read_keys = Array[Own.Block, length=BLOCKS](fill=Own.Block(fill=Own.Taken(0)))
    var read_values = Array[Own.Block, length=BLOCKS](fill=Own.Block(fill=Own.Taken(0)))
    comptime for b in range(BLOCKS):
        var t = (b * WARPS + own_warp) * KEYS
        if t < count:
            read_keys[b] = Own.keys(part_keys.unsafe_offset(t * HEAD), lane)
            read_values[b] = Own.values(part_values.unsafe_offset(t * HEAD), count - t, lane)
    wait_on_dependent_grids()
    var weights = stack_allocation[AUDIO_RANGE, Float32, address_space=AddressSpace.SHARED]()
    var query = Own.query(q.unsafe_offset((i * heads + head) * HEAD), lane)
    var highest = LOWEST
    comptime for b in range(BLOCKS):
        var score = Own.score(read_keys[b], query, lane)
        var t = (b * WARPS + own_warp) * KEYS + Own.position(lane)
        weights[unsafe_offset=t] = score
        if t < count:
            highest = max(highest, score)
    var softmax = softmax_of(weights, count, AUDIO_RANGE, highest)
    var sums = SIMD[F32, Own.WIDTH](0)
    comptime for b in range(BLOCKS):
        var t = (b * WARPS + own_warp) * KEYS
        Own.mix(read_values[b], weights.unsafe_offset(t), sums, lane)
    var sum = Own.gather(sums, lane, own_warp)
    var place = i * heads + head
    comptime if in_cluster:
        var together = stack_allocation[
            PARTS * FOUND, Float32, address_space=AddressSpace.SHARED
        ]()
        var own = in_first_block(together.unsafe_offset(part * FOUND))
        cluster_wait()
        if tid < HEAD:
            store_in_cluster(own, tid, sum)
        if tid == 0:
            store_in_cluster(own, HEAD, softmax.highest)
            store_in_cluster(own, HEAD + 1, softmax.total)
        cluster_sync()
        if part == 0 and tid < HEAD:
            output[unsafe_offset=place * HEAD + tid] = combined(together, PARTS, tid).cast[ACT]()
    else:
        var parts = (Int(length) + AUDIO_RANGE - 1) // AUDIO_RANGE
        var own = found.unsafe_offset((place * parts + part) * FOUND)
        if tid < HEAD:
            own[unsafe_offset=tid] = sum
        if tid == 0:
            own[unsafe_offset=HEAD] = softmax.highest
            own[unsafe_offset=HEAD + 1] = softmax.total


@always_inline
def combined(found: Pointer[Float32, _, address_space=_], parts: Int, axis: Int) -> Float32:
    """The parts' sums [parts, FOUND] along one axis, by the weight that each part has."""
    var highest = LOWEST
    for part in range(parts):
        highest = max(highest, found[unsafe_offset=part * FOUND + HEAD])
    var sum = Float32(0)
    var total = Float32(0)
    for part in range(parts):
        var one = found.unsafe_offset(part * FOUND)
        var weight = exp(one[unsafe_offset=HEAD] - highest)
        sum += weight * one[unsafe_offset=axis]
        total += weight * one[unsafe_offset=HEAD + 1]
    return sum / total


def combine_kernel[ACT: DType](
    output: Pointer[Scalar[ACT], MutAnyOrigin],
    found: Pointer[Float32, ImmutAnyOrigin],
    parts: Int32,
):
    """Block (head, token), a thread for each axis: the parts' sums by the weight that each has."""
    launch_dependent_grids()
    wait_on_dependent_grids()
    var at = Int(block_idx.y) * output_heads() + Int(block_idx.x)
    var axis = Int(thread_idx.x)
    var one = combined(found.unsafe_offset(at * Int(parts) * FOUND), Int(parts), axis)
    output[unsafe_offset=at * HEAD + axis] = one.cast[ACT]()


@always_inline
def output_heads() -> Int:
    """Heads of the launch: its blocks along x."""
    return Int(grid_dim.x)


@always_inline
def write_own[KV: DType, ACT: DType, //](
    keys: Pointer[Scalar[KV], MutAnyOrigin],
    values: Pointer[Scalar[KV], MutAnyOrigin],
    qkv: Pointer[Scalar[ACT], ImmutAnyOrigin],
    i: Int,
    head: Int,
    heads: Int,
    t: Int,
    axis: Int,
):
    """Threads below HEAD: put token i's key and value into its row's of one head, at position t."""
    if axis >= HEAD:
        return
    var own = qkv.unsafe_offset((i * 3 + 1) * heads * HEAD + head * HEAD + axis)
    keys[unsafe_offset=(t // KEYS * HEAD + axis) * KEYS + t % KEYS] = own[].cast[KV]()
    values[unsafe_offset=t * HEAD + axis] = own[unsafe_offset=heads * HEAD].cast[KV]()


def write_kernel[KV: DType, ACT: DType](
    keys: Pointer[Scalar[KV], MutAnyOrigin],
    values: Pointer[Scalar[KV], MutAnyOrigin],
    qkv: Pointer[Scalar[ACT], ImmutAnyOrigin],
    rows: Pointer[Int32, ImmutAnyOrigin],
    positions: Pointer[Int32, ImmutAnyOrigin],
    layer: Pointer[Int32, ImmutAnyOrigin],
    n_rows: Int32,
    key_blocks: Int32,
    length: Int32,
):
    """Block (head, token), a thread for each axis: put the token's key and value into its row."""
    launch_dependent_grids()
    wait_on_dependent_grids()
    var heads = output_heads()
    var head = Int(block_idx.x)
    var i = Int(block_idx.y)
    var at = (Int(layer[]) * Int(n_rows) + Int(rows[unsafe_offset=i])) * heads + head
    write_own(
        keys.unsafe_offset(at * Int(key_blocks) * KEYS * HEAD),
        values.unsafe_offset(at * Int(length) * HEAD),
        qkv, i, head, heads, Int(positions[unsafe_offset=i]), Int(thread_idx.x),
    )


@extensibility.register("mwc_gpu_self_attention")
struct GPUSelfAttention:
    """As mwc_self_attention; `positions_held` is how many a row has at most.

    Two launches, because tokens of one row need each other's keys and values; one where each token
    is `alone` in its row (1).
    """

    @staticmethod
    def execute[target: StaticString, KV: DType, ACT: DType, positions_held: Int, alone: Int](
        output: OutputTensor[dtype=ACT, rank=2, ...],
        self_k: MutableInputTensor[dtype=KV, rank=6, ...],
        self_v: MutableInputTensor[dtype=KV, rank=5, ...],
        qkv: InputTensor[dtype=ACT, rank=2, ...],
        rows: InputTensor[dtype=I32, rank=1, ...],
        positions: InputTensor[dtype=I32, rank=1, ...],
        layer: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var heads = self_k.dim_size(2)
        var n = qkv.dim_size(0)
        var n_rows = Int32(self_k.dim_size(1))
        var key_blocks = Int32(self_k.dim_size(3))
        var length = Int32(self_v.dim_size(3))
        comptime if alone == 0:
            comptime write = write_kernel[KV, ACT]
            ctx.enqueue_function[write](
                self_k.unsafe_ptr(), self_v.unsafe_ptr(), qkv.unsafe_ptr(), rows.unsafe_ptr(),
                positions.unsafe_ptr(), layer.unsafe_ptr(), n_rows, key_blocks, length,
                grid_dim=(heads, n), block_dim=HEAD, attributes=early_launch(),
            )
        comptime attend = attend_own_kernel[KV, ACT, positions_held, alone == 1]
        ctx.enqueue_function[attend](
            output.unsafe_ptr(), self_k.unsafe_ptr(), self_v.unsafe_ptr(), qkv.unsafe_ptr(),
            rows.unsafe_ptr(), positions.unsafe_ptr(), layer.unsafe_ptr(), n_rows, key_blocks,
            length,
            grid_dim=(heads, n), block_dim=THREADS, attributes=early_launch(),
        )


@extensibility.register("mwc_gpu_cross_attention")
struct GPUCrossAttention:
    """As mwc_cross_attention; `found` f32 [n, heads, parts, FOUND] is memory to work with.

    One launch where the parts can be a cluster and tokens are few, else two. What a part finds and
    the order in which `combined` takes the parts are the same for both, so the results are.
    """

    @staticmethod
    def execute[target: StaticString, KV: DType, ACT: DType](
        output: OutputTensor[dtype=ACT, rank=2, ...],
        found: OutputTensor[dtype=F32, rank=4, ...],
        cross_k: MutableInputTensor[dtype=KV, rank=6, ...],
        cross_v: MutableInputTensor[dtype=KV, rank=5, ...],
        q: InputTensor[dtype=ACT, rank=2, ...],
        windows: InputTensor[dtype=I32, rank=1, ...],
        layer: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var heads = cross_k.dim_size(2)
        var n = q.dim_size(0)
        var parts = found.dim_size(2)

        @__parameter
        def attend[in_cluster: Bool]() raises:
            comptime kernel = attend_audio_kernel[KV, ACT, in_cluster]
            var cluster = Optional(Dim(1, 1, PARTS)) if in_cluster else None
            ctx.enqueue_function[kernel](
                output.unsafe_ptr(), found.unsafe_ptr(), cross_k.unsafe_ptr(),
                cross_v.unsafe_ptr(), q.unsafe_ptr(), windows.unsafe_ptr(), layer.unsafe_ptr(),
                Int32(cross_k.dim_size(1)), Int32(cross_k.dim_size(3)),
                Int32(cross_v.dim_size(3)),
                grid_dim=(heads, n, parts),
                block_dim=THREADS,
                cluster_dim=cluster,
                attributes=early_launch(),
            )

        comptime if has_clusters() and PARTS <= MOST_BLOCKS:
            if parts == PARTS and heads * n <= MOST_CLUSTERS:
                attend[True]()
                return
        attend[False]()
        comptime combine = combine_kernel[ACT]
        ctx.enqueue_function[combine](
            output.unsafe_ptr(), found.unsafe_ptr(), Int32(parts),
            grid_dim=(heads, n), block_dim=HEAD, attributes=early_launch(),
        )
