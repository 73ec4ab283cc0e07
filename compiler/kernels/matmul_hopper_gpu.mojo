"""Products of many rows on Hopper's tensor cores, which read shared memory by themselves (wgmma).

As matmul_gpu.mojo, but groups of four warps have 64 rows of a tile each. While a tile's products
run, a later one is copied. Two blocks fit on a multiprocessor, so that its tensor cores have work
while one of them waits.
"""

from max.gpu import WARP_SIZE, barrier, block_idx, thread_idx
from max.gpu.compute.mma import (
    WGMMADescriptor,
    wgmma_async,
    wgmma_commit_group_sync,
    wgmma_fence_aligned,
    wgmma_wait_group_sync,
)
from max.gpu.memory import (
    AddressSpace,
    async_copy_commit_group,
    async_copy_wait_group,
    external_memory,
)
from max.gpu.primitives.grid_controls import launch_dependent_grids, wait_on_dependent_grids
from std.sys import size_of
from std.sys._assembly import inlined_assembly

from .matmul_tiles_gpu import DEPTH, fetch, put_sums, store_tile

comptime F32 = DType.float32
comptime GROUP = 4 * WARP_SIZE
comptime GROUP_ROWS = 64
comptime TERMS = 16
"""Terms of one product."""


@always_inline
def tile_descriptor[T: DType, //](
    tile: Pointer[Scalar[T], _, address_space=AddressSpace.SHARED]
) -> WGMMADescriptor[T]:
    """A tile's rows as the tensor cores are told of them; `tile` begins at a multiple of 1024 bytes.

    Eight rows are 1024 bytes, and pieces lie as matmul_tiles_gpu.mojo puts them: the mode with a
    128-byte swizzle, in which the distance along the terms is not used.
    """
    comptime EIGHT_ROWS = 8 * DEPTH * size_of[Scalar[T]]()
    var address = Int64((Int(tile) & 0x3FFFF) >> 4)
    comptime rest = Int64(1) << 16 | Int64(EIGHT_ROWS >> 4) << 32 | Int64(1) << 62
    return WGMMADescriptor[T](address | rest)


def matmul_hopper_kernel[T: DType, epilogue: Int, side: Int, stages: Int](
    y: Pointer[Scalar[T], MutAnyOrigin],
    x: Pointer[Scalar[T], ImmutAnyOrigin],
    w: Pointer[Scalar[T], ImmutAnyOrigin],
    bias: Pointer[Float32, ImmutAnyOrigin],
    residual: Pointer[Scalar[T], ImmutAnyOrigin],
    m: Int32,
    n: Int32,
    k: Int32,
):
    """One tile of y; see `matmul_kernel`."""
    comptime TILE = side * DEPTH
    comptime THREADS = side // GROUP_ROWS * GROUP
    comptime SUMS = GROUP_ROWS * side // GROUP
    """Of a thread."""
    var rows = Int(m)
    var outputs = Int(n)
    var terms = Int(k)
    var group = Int(thread_idx.x) // GROUP
    var first_row = Int(block_idx.y) * side
    var first_output = Int(block_idx.x) * side
    var tiles = (terms + DEPTH - 1) // DEPTH
    var shared = external_memory[Scalar[T], address_space=AddressSpace.SHARED, alignment=1024]()

    @always_inline
    @__parameter
    def fetch_both(tile: Int):
        var stage = shared.unsafe_offset(tile % stages * 2 * TILE)
        fetch[side, THREADS](stage, x, first_row, rows, tile * DEPTH, terms)
        fetch[side, THREADS](
            stage.unsafe_offset(TILE), w, first_output, outputs, tile * DEPTH, terms
        )

    launch_dependent_grids()
    wait_on_dependent_grids()
    comptime for ahead in range(stages - 1):
        if ahead < tiles:
            fetch_both(ahead)
        async_copy_commit_group()
    var sums = SIMD[F32, SUMS](0)
    for tile in range(tiles):
        async_copy_wait_group(Int32(stages - 2))
        # What was copied has to be seen by the tensor cores, too.
        inlined_assembly["fence.proxy.async.shared::cta;", NoneType, constraints="~{memory}"]()
        barrier()
        var x_tile = shared.unsafe_offset(tile % stages * 2 * TILE)
        var left = tile_descriptor(x_tile.unsafe_offset(group * GROUP_ROWS * DEPTH))
        var right = tile_descriptor(x_tile.unsafe_offset(TILE))
        wgmma_fence_aligned()
        comptime for step in range(DEPTH // TERMS):
            comptime bytes = step * TERMS * size_of[Scalar[T]]()
            sums = wgmma_async[GROUP_ROWS, side, TERMS, F32, SUMS, a_type=T, b_type=T](
                left + bytes, right + bytes, sums
            )
        wgmma_commit_group_sync()
        if tile + stages - 1 < tiles:
            fetch_both(tile + stages - 1)
        async_copy_commit_group()
        wgmma_wait_group_sync[0]()
    async_copy_wait_group(0)
    barrier()
    var own = shared.bitcast[Float32]()
    var own_row = Int(thread_idx.x) // WARP_SIZE * 16
    comptime for b in range(side // 8):
        put_sums[side](own, own_row, b * 8, sums.slice[4, offset=b * 4]())
    barrier()
    store_tile[epilogue, side, THREADS](
        own, y, bias, residual, first_row, rows, first_output, outputs
    )
