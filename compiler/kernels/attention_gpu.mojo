"""The decoder's kernels on GPUs: the same caches and rules as on CPUs, one block per head or row.

Every size that changes between calls (tokens, rows, windows) is a grid dimension or read from
device memory, so a captured device graph stays valid while positions advance.
"""

from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.gpu import barrier, block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.memory import AddressSpace
from std.math import exp
from std.memory import stack_allocation
from std.utils.index import IndexList

from .rules import LOWEST

comptime F32 = DType.float32
comptime I32 = DType.int32
comptime HEAD = 64
comptime KEYS_PER_BLOCK = 16
comptime THREADS = 128
"""Threads of an attention block: two per axis of the head when values are mixed."""
comptime MAX_POSITIONS = 1504


@always_inline
def attend_block[KV: DType, ACT: DType, //](
    output: OutputTensor[dtype=ACT, rank=2, ...],
    k: MutableInputTensor[dtype=KV, rank=6, ...],
    v: MutableInputTensor[dtype=KV, rank=5, ...],
    q: InputTensor[dtype=ACT, rank=2, ...],
    layer: Int,
    slot: Int,
    head: Int,
    i: Int,
    n: Int,
):
    """One block: token i's attention to the first n positions of one head of a slot."""
    var tid = Int(thread_idx.x)
    var query = stack_allocation[HEAD, Float32, address_space=AddressSpace.SHARED]()
    var scores = stack_allocation[MAX_POSITIONS, Float32, address_space=AddressSpace.SHARED]()
    var partial = stack_allocation[THREADS, Float32, address_space=AddressSpace.SHARED]()
    if tid < HEAD:
        query[unsafe_offset=tid] = q.load[1](IndexList[2](i, head * HEAD + tid)).cast[F32]()
    barrier()

    var highest = LOWEST
    for t in range(tid, n, THREADS):
        var s = Float32(0)
        for d in range(HEAD):
            var at = IndexList[6](layer, slot, head, t // KEYS_PER_BLOCK, d, t % KEYS_PER_BLOCK)
            s += query[unsafe_offset=d] * k.load[1](at).cast[F32]()
        scores[unsafe_offset=t] = s
        highest = max(highest, s)
    partial[unsafe_offset=tid] = highest
    barrier()
    for other in range(THREADS):
        highest = max(highest, partial[unsafe_offset=other])
    barrier()

    var total = Float32(0)
    for t in range(tid, n, THREADS):
        var e = exp(scores[unsafe_offset=t] - highest)
        scores[unsafe_offset=t] = e
        total += e
    partial[unsafe_offset=tid] = total
    barrier()
    total = 0
    for other in range(THREADS):
        total += partial[unsafe_offset=other]
    barrier()

    var mixed = Float32(0)
    for t in range(tid // HEAD, n, THREADS // HEAD):
        var value = v.load[1](IndexList[5](layer, slot, head, t, tid % HEAD)).cast[F32]()
        mixed += scores[unsafe_offset=t] * value
    partial[unsafe_offset=tid] = mixed
    barrier()
    if tid < HEAD:
        var sum = partial[unsafe_offset=tid] + partial[unsafe_offset=tid + HEAD]
        output.store[1](IndexList[2](i, head * HEAD + tid), (sum / total).cast[ACT]())


def self_attention_gpu[KV: DType, ACT: DType, //](
    output: OutputTensor[dtype=ACT, rank=2, ...],
    self_k: MutableInputTensor[dtype=KV, rank=6, ...],
    self_v: MutableInputTensor[dtype=KV, rank=5, ...],
    qkv: InputTensor[dtype=ACT, rank=2, ...],
    rows: InputTensor[dtype=I32, rank=1, ...],
    positions: InputTensor[dtype=I32, rank=1, ...],
    layer: InputTensor[dtype=I32, rank=1, ...],
    ctx: DeviceContext,
) raises:
    """Write all keys and values, then attend: two launches, because tokens of a row need both."""
    var heads = self_k.dim_size(2)
    var n = qkv.dim_size(0)

    @parameter
    def write(n_heads: Int32):
        var head = Int(block_idx.x)
        var i = Int(block_idx.y)
        var d = Int(thread_idx.x)
        var state = Int(n_heads) * HEAD
        var at_layer = Int(layer.load[1](IndexList[1](0)))
        var row = Int(rows.load[1](IndexList[1](i)))
        var t = Int(positions.load[1](IndexList[1](i)))
        self_k.store[1](
            IndexList[6](at_layer, row, head, t // KEYS_PER_BLOCK, d, t % KEYS_PER_BLOCK),
            qkv.load[1](IndexList[2](i, state + head * HEAD + d)).cast[KV](),
        )
        self_v.store[1](
            IndexList[5](at_layer, row, head, t, d),
            qkv.load[1](IndexList[2](i, 2 * state + head * HEAD + d)).cast[KV](),
        )

    @parameter
    def attend(n_heads: Int32):
        var i = Int(block_idx.y)
        attend_block(
            output, self_k, self_v, qkv,
            Int(layer.load[1](IndexList[1](0))),
            Int(rows.load[1](IndexList[1](i))),
            Int(block_idx.x), i,
            Int(positions.load[1](IndexList[1](i))) + 1,
        )

    ctx.enqueue_function[write](Int32(heads), grid_dim=(heads, n), block_dim=HEAD)
    ctx.enqueue_function[attend](Int32(heads), grid_dim=(heads, n), block_dim=THREADS)


def cross_attention_gpu[KV: DType, ACT: DType, //](
    output: OutputTensor[dtype=ACT, rank=2, ...],
    cross_k: MutableInputTensor[dtype=KV, rank=6, ...],
    cross_v: MutableInputTensor[dtype=KV, rank=5, ...],
    q: InputTensor[dtype=ACT, rank=2, ...],
    windows: InputTensor[dtype=I32, rank=1, ...],
    layer: InputTensor[dtype=I32, rank=1, ...],
    ctx: DeviceContext,
) raises:
    """Attend to every position of each token's window."""

    @parameter
    def attend(length: Int32):
        var i = Int(block_idx.y)
        attend_block(
            output, cross_k, cross_v, q,
            Int(layer.load[1](IndexList[1](0))),
            Int(windows.load[1](IndexList[1](i))),
            Int(block_idx.x), i, Int(length),
        )

    ctx.enqueue_function[attend](
        Int32(cross_v.dim_size(3)),
        grid_dim=(cross_k.dim_size(2), q.dim_size(0)),
        block_dim=THREADS,
    )


def store_cross_kv_gpu[KV: DType, ACT: DType, //](
    cross_k: MutableInputTensor[dtype=KV, rank=6, ...],
    cross_v: MutableInputTensor[dtype=KV, rank=5, ...],
    kv: InputTensor[dtype=ACT, rank=3, ...],
    windows: InputTensor[dtype=I32, rank=1, ...],
    layer: InputTensor[dtype=I32, rank=1, ...],
    ctx: DeviceContext,
) raises:
    """One block per head, window and group of 16 positions."""
    var heads = cross_k.dim_size(2)
    var length = cross_v.dim_size(3)

    @parameter
    def store(n_heads: Int32, n_positions: Int32):
        var head = Int(block_idx.x)
        var i = Int(block_idx.y)
        var block = Int(block_idx.z)
        var d = Int(thread_idx.x)
        var state = Int(n_heads) * HEAD
        var at_layer = Int(layer.load[1](IndexList[1](0)))
        var slot = Int(windows.load[1](IndexList[1](i)))
        for lane in range(KEYS_PER_BLOCK):
            var t = block * KEYS_PER_BLOCK + lane
            if t < Int(n_positions):
                cross_k.store[1](
                    IndexList[6](at_layer, slot, head, block, d, lane),
                    kv.load[1](IndexList[3](i, t, head * HEAD + d)).cast[KV](),
                )
                cross_v.store[1](
                    IndexList[5](at_layer, slot, head, t, d),
                    kv.load[1](IndexList[3](i, t, state + head * HEAD + d)).cast[KV](),
                )

    ctx.enqueue_function[store](
        Int32(heads), Int32(length),
        grid_dim=(heads, kv.dim_size(0), cross_k.dim_size(3)),
        block_dim=HEAD,
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
    def copy(n: Int32):
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
        Int32(sources.dim_size(0)),
        grid_dim=(self_k.dim_size(2), self_k.dim_size(0), sources.dim_size(0)),
        block_dim=HEAD,
    )
