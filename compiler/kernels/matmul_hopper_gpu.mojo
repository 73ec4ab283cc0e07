"""Products of many rows on Hopper: y = epilogue(x · wᵀ), its copy engine feeding its tensor cores.

A block stays on its multiprocessor and makes tiles of y one after another. One thread has the copy
engine (TMA) put tiles of x and w into a ring of shared memory; two groups of four warps take the
tiles of y in turns: while one's products run, which read shared memory by themselves (wgmma), the
other adds bias, GELU or residual to its last tile and stores it. So the tensor cores always have
work. Barriers in shared memory (mbarrier) say what is full, what is free, and whose turn it is.
"""

from max.gpu import (
    MAX_THREADS_PER_BLOCK_METADATA,
    WARP_SIZE,
    barrier,
    block_idx,
    grid_dim,
    thread_idx,
)
from max.gpu.compute.mma import (
    WGMMADescriptor,
    wgmma_async,
    wgmma_commit_group_sync,
    wgmma_fence_aligned,
    wgmma_wait_group_sync,
)
from max.gpu.host import DeviceAttribute, DeviceBuffer, DeviceContext, FuncAttribute
from max.gpu.host.nvidia.tma import TensorMapSwizzle, TMADescriptor, create_tma_descriptor
from max.gpu.intrinsics import warpgroup_reg_alloc, warpgroup_reg_dealloc
from max.gpu.memory import (
    AddressSpace,
    cp_async_bulk_tensor_shared_cluster_global,
    external_memory,
    fence_mbarrier_init,
)
from max.gpu.primitives import warp
from max.gpu.primitives.grid_controls import launch_dependent_grids, wait_on_dependent_grids
from max.gpu.sync import mbarrier_arrive, mbarrier_arrive_expect_tx_shared, mbarrier_init
from std.memory import stack_allocation
from std.sys import size_of
from std.sys._assembly import inlined_assembly
from std.utils.index import IndexList
from std.utils.static_tuple import StaticTuple

from .early_launch_gpu import early_launch
from .matmul_registers_gpu import GROUP_ROWS, Epilogue
from .matmul_tiles_gpu import DEPTH, Outputs

comptime F32 = DType.float32
comptime GROUP = 4 * WARP_SIZE
"""Threads that issue a product together."""
comptime TERMS = 16
"""Terms of a product."""
comptime SIDE = 128
"""Outputs of a tile."""
comptime TAKERS = 2
"""Groups that take the tiles of y in turns."""
comptime THREADS = (1 + TAKERS) * GROUP
comptime FEEDER_REGISTERS = 40
comptime TAKER_REGISTERS = 232
"""Of a thread; a multiprocessor has 65,536."""

comptime Gate = Pointer[mut=True, Int64, _, address_space=AddressSpace.SHARED]
"""A barrier in shared memory. It has phases, which end when all that it waits for has come."""


def stages_of(tall: Int) -> Int:
    """Tiles of x and w in the ring: 192 KiB."""
    return 6 if tall == 2 * GROUP_ROWS else 8


@always_inline
def tile_descriptor[T: DType, //](
    tile: Pointer[Scalar[T], _, address_space=AddressSpace.SHARED]
) -> WGMMADescriptor[T]:
    """A tile's rows as the tensor cores are told of them; `tile` begins at a multiple of 1024 bytes.

    Eight rows are 1024 bytes, and pieces lie as the copy engine puts them with a 128-byte swizzle,
    in which the distance along the terms is not used (PTX ISA 9.7.15.5.1).
    """
    comptime EIGHT_ROWS = 8 * DEPTH * size_of[Scalar[T]]()
    var address = Int64((Int(tile) & 0x3FFFF) >> 4)
    comptime rest = Int64(1) << 16 | Int64(EIGHT_ROWS >> 4) << 32 | Int64(1) << 62
    return WGMMADescriptor[T](address | rest)


@always_inline
def wait_at(gate: Gate, phase: Int):
    """Wait until the phase of that parity has ended: of the last two, which one it is has to be sure.
    """
    inlined_assembly[
        """{
        .reg .pred ended;
        AGAIN:
        mbarrier.try_wait.parity.shared::cta.b64 ended, [$0], $1;
        @ended bra PASSED;
        bra AGAIN;
        PASSED:
        }""",
        NoneType,
        constraints="r,r,~{memory}",
    ](Int32(Int(gate)), Int32(phase))


struct Ring[stages: Int](Movable):
    """Where a thread is in the ring: a stage, and the parity of the phase that ends there."""

    var at: Int
    var phase: Int

    @always_inline
    def __init__(out self, passed: Int):
        """After so many tiles of x and w."""
        self.at = passed % Self.stages
        self.phase = passed // Self.stages & 1

    @always_inline
    def before(self) -> Int:
        """The stage before this one."""
        return self.at - 1 if self.at > 0 else Self.stages - 1

    @always_inline
    def step(mut self):
        """Go to the next stage."""
        self.at += 1
        if self.at == Self.stages:
            self.at = 0
            self.phase ^= 1


@__llvm_metadata(MAX_THREADS_PER_BLOCK_METADATA=StaticTuple[Int32, 1](Int32(THREADS)))
@__llvm_arg_metadata(x_map, `nvvm.grid_constant`)
@__llvm_arg_metadata(w_map, `nvvm.grid_constant`)
@__name(t"mwc_matmul_hopper_{epilogue}_{tall}")
def matmul_hopper_kernel[T: DType, epilogue: Int, tall: Int](
    x_map: TMADescriptor,
    w_map: TMADescriptor,
    y: Pointer[Scalar[T], MutAnyOrigin],
    second: Pointer[Scalar[T], MutAnyOrigin],
    third: Pointer[Scalar[T], MutAnyOrigin],
    width: Int32,
    bias: Pointer[Float32, ImmutAnyOrigin],
    residual: Pointer[Scalar[T], ImmutAnyOrigin],
    m: Int32,
    n: Int32,
    k: Int32,
):
    """Tiles of y, `tall` rows by SIDE outputs; see `matmul_kernel` for the rest."""
    comptime STAGES = stages_of(tall)
    comptime STAGE = (tall + SIDE) * DEPTH
    comptime PARTS = tall // GROUP_ROWS
    comptime SUMS = GROUP_ROWS * SIDE // GROUP
    comptime Finish = Epilogue[T, epilogue, tall, SIDE]
    var rows = Int(m)
    var outputs = Int(n)
    var depths = (Int(k) + DEPTH - 1) // DEPTH
    var across = (outputs + SIDE - 1) // SIDE
    var tiles = (rows + tall - 1) // tall * across
    var first = Int(block_idx.x)
    var blocks = Int(grid_dim.x)
    var shared = external_memory[Scalar[T], address_space=AddressSpace.SHARED, alignment=1024]()
    var full = stack_allocation[STAGES, Int64, address_space=AddressSpace.SHARED, alignment=8]()
    var free = stack_allocation[STAGES, Int64, address_space=AddressSpace.SHARED, alignment=8]()
    var turns = stack_allocation[TAKERS, Int64, address_space=AddressSpace.SHARED, alignment=8]()
    # All threads of a warp have the same, which the compiler has to know.
    var group = Int(warp.broadcast(UInt32(Int(thread_idx.x) // GROUP)))
    var leads = Int(thread_idx.x) % GROUP == 0
    if thread_idx.x == 0:
        comptime for s in range(STAGES):
            mbarrier_init(full.unsafe_offset(s), 1)
            mbarrier_init(free.unsafe_offset(s), 1)
        comptime for taker in range(TAKERS):
            mbarrier_init(turns.unsafe_offset(taker), 1)
        fence_mbarrier_init()
    barrier()
    launch_dependent_grids()
    wait_on_dependent_grids()
    if group == 0:
        warpgroup_reg_dealloc[FEEDER_REGISTERS]()
        if not leads:
            return
        var ring = Ring[STAGES](0)
        for tile in range(first, tiles, blocks):
            # Not in the loop below, which would wait for the divisions.
            var first_row = tile // across * tall
            var first_output = tile % across * SIDE
            for d in range(depths):
                # Of a ring that nobody was in yet, all is free: the phase before the first has ended.
                wait_at(free.unsafe_offset(ring.at), 1 - ring.phase)
                var gate = full.unsafe_offset(ring.at)
                var stage = shared.unsafe_offset(ring.at * STAGE)
                mbarrier_arrive_expect_tx_shared(gate, Int32(STAGE * size_of[Scalar[T]]()))
                cp_async_bulk_tensor_shared_cluster_global(
                    stage,
                    Pointer(to=x_map).unsafe_bitcast[NoneType](),
                    gate,
                    IndexList[2](d * DEPTH, first_row),
                )
                cp_async_bulk_tensor_shared_cluster_global(
                    stage.unsafe_offset(tall * DEPTH),
                    Pointer(to=w_map).unsafe_bitcast[NoneType](),
                    gate,
                    IndexList[2](d * DEPTH, first_output),
                )
                ring.step()
    else:
        warpgroup_reg_alloc[TAKER_REGISTERS]()
        var taker = group - 1
        var passed = taker * depths
        var turn = 1 - taker
        var to = Outputs[T](y, second, third, Int(width))
        for tile in range(first + taker * blocks, tiles, TAKERS * blocks):
            var finish = Finish(
                tile // across * tall, rows, tile % across * SIDE, outputs, residual
            )
            var ring = Ring[STAGES](passed)
            passed += TAKERS * depths
            # Without turns a stage would be waited for that is a whole ring away.
            wait_at(turns.unsafe_offset(taker), turn)
            turn ^= 1
            var sums = Array[SIMD[F32, SUMS], length=PARTS](fill=SIMD[F32, SUMS](0))
            for d in range(depths):
                wait_at(full.unsafe_offset(ring.at), ring.phase)
                if leads and d == depths - 1:
                    _ = mbarrier_arrive(turns.unsafe_offset(1 - taker))
                var stage = shared.unsafe_offset(ring.at * STAGE)
                var left = tile_descriptor(stage)
                var right = tile_descriptor(stage.unsafe_offset(tall * DEPTH))
                wgmma_fence_aligned()
                comptime for step in range(DEPTH // TERMS):
                    comptime bytes = step * TERMS * size_of[Scalar[T]]()
                    comptime for part in range(PARTS):
                        comptime below = part * GROUP_ROWS * DEPTH * size_of[Scalar[T]]()
                        sums[part] = wgmma_async[
                            GROUP_ROWS, SIDE, TERMS, F32, SUMS, a_type=T, b_type=T
                        ](left + (below + bytes), right + bytes, sums[part])
                wgmma_commit_group_sync()
                # These products run; those before them are done with their stage.
                wgmma_wait_group_sync[1]()
                if leads and d > 0:
                    _ = mbarrier_arrive(free.unsafe_offset(ring.before()))
                ring.step()
            wgmma_wait_group_sync[0]()
            if leads:
                _ = mbarrier_arrive(free.unsafe_offset(ring.before()))
            comptime for part in range(PARTS):
                finish.store[part](sums[part], to, bias)


def matmul_hopper[T: DType, //, epilogue: Int, tall: Int](
    y: Outputs[T],
    x: Pointer[Scalar[T], ImmutAnyOrigin],
    w: Pointer[Scalar[T], ImmutAnyOrigin],
    bias: Pointer[Float32, ImmutAnyOrigin],
    residual: Pointer[Scalar[T], ImmutAnyOrigin],
    m: Int,
    n: Int,
    k: Int,
    ctx: DeviceContext,
) raises:
    """Launch a block for each multiprocessor, or for each tile if there are fewer."""
    comptime kernel = matmul_hopper_kernel[T, epilogue, tall]
    comptime bytes = stages_of(tall) * (tall + SIDE) * DEPTH * size_of[Scalar[T]]()
    var tiles = (m + tall - 1) // tall * ((n + SIDE - 1) // SIDE)
    var processors = ctx.get_attribute(DeviceAttribute.MULTIPROCESSOR_COUNT)
    ctx.enqueue_function[kernel](
        tile_map[tall](x, m, k, ctx), tile_map[SIDE](w, n, k, ctx),
        y.first, y.second, y.third, Int32(y.width), bias, residual, Int32(m), Int32(n), Int32(k),
        grid_dim=min(tiles, processors),
        block_dim=THREADS,
        shared_mem_bytes=bytes,
        func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(UInt32(bytes)),
        attributes=early_launch(),
    )


def tile_map[T: DType, //, side: Int](
    matrix: Pointer[Scalar[T], ImmutAnyOrigin], rows: Int, terms: Int, ctx: DeviceContext
) raises -> TMADescriptor:
    """How the copy engine takes tiles of `side` rows and DEPTH terms; past a matrix's ends are zeros.
    """
    var buffer = DeviceBuffer[T](
        ctx, matrix.unsafe_mut_cast[True](), rows * terms, owning=False
    )
    return create_tma_descriptor[T, 2, TensorMapSwizzle.SWIZZLE_128B](
        buffer, IndexList[2](rows, terms), IndexList[2](terms, 1), IndexList[2](side, DEPTH)
    )
