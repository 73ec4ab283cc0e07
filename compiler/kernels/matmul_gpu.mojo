"""Products of many rows on a GPU's tensor cores: y = epilogue(x · wᵀ) in bfloat16 or float16.

A block makes one tile of y. Tiles of x and w pass through shared memory, some of them under way at a
time (cp.async); from there warps take what the tensor cores want (ldmatrix, m16n8k16). Sums are
float32, each over its terms in their order whatever the tiles' size, and bias, GELU and residual are
added before the one rounding. MAX's own op would compile kernels for every shape, for minutes each.
On Hopper matmul_hopper_gpu.mojo takes their place.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu import WARP_SIZE, barrier, block_idx, thread_idx
from max.gpu.compute.mma import ld_matrix, mma
from max.gpu.host import DeviceContext, FuncAttribute
from max.gpu.memory import (
    AddressSpace,
    async_copy_commit_group,
    async_copy_wait_group,
    external_memory,
)
from max.gpu.primitives.grid_controls import launch_dependent_grids, wait_on_dependent_grids
from std.sys import size_of

from .architecture_gpu import is_hopper
from .early_launch_gpu import early_launch
from .linear import BIAS, BIAS_GELU, BIAS_RESIDUAL
from .matmul_hopper_gpu import matmul_hopper
from .matmul_registers_gpu import GROUP_ROWS
from .matmul_tiles_gpu import DEPTH, Outputs, fetch, place, put_sums, store_tile

comptime F32 = DType.float32
comptime WARPS_ACROSS = 2
comptime THREADS = WARPS_ACROSS * WARPS_ACROSS * WARP_SIZE
comptime SMALL = 64
comptime LARGE = 128
"""Sides of a block's tile."""
comptime ENOUGH_TILES = 192
"""Large tiles from which on they keep a GPU busy."""
comptime FEW_TILES = 66
"""Large tiles up to which half a Hopper GPU would have nothing to do."""


def stages_of(side: Int) -> Int:
    """Tiles under way: small ones are used up before the next ones are there."""
    return 6 if side == SMALL else 3


def matmul_kernel[T: DType, epilogue: Int, side: Int](
    y: Pointer[Scalar[T], MutAnyOrigin],
    second: Pointer[Scalar[T], MutAnyOrigin],
    third: Pointer[Scalar[T], MutAnyOrigin],
    width: Int32,
    x: Pointer[Scalar[T], ImmutAnyOrigin],
    w: Pointer[Scalar[T], ImmutAnyOrigin],
    bias: Pointer[Float32, ImmutAnyOrigin],
    residual: Pointer[Scalar[T], ImmutAnyOrigin],
    m: Int32,
    n: Int32,
    k: Int32,
):
    """One tile of y, `side` rows by `side` outputs; four warps have a quarter each.

    `y`, `second`, `third` and `width` are those of `Outputs`. `bias` [n] and `residual` [m, n] are read only where the epilogue names them. PIECE divides k and
    n.
    """
    comptime QUARTER = side // WARPS_ACROSS
    comptime DOWN = QUARTER // 16
    comptime ACROSS = QUARTER // 8
    comptime TILE = side * DEPTH
    comptime STAGES = stages_of(side)
    var rows = Int(m)
    var outputs = Int(n)
    var terms = Int(k)
    var lane = Int(thread_idx.x) % WARP_SIZE
    var own_row = Int(thread_idx.x) // WARP_SIZE // WARPS_ACROSS * QUARTER
    var own_output = Int(thread_idx.x) // WARP_SIZE % WARPS_ACROSS * QUARTER
    var first_row = Int(block_idx.y) * side
    var first_output = Int(block_idx.x) * side
    var tiles = (terms + DEPTH - 1) // DEPTH
    var shared = external_memory[Scalar[T], address_space=AddressSpace.SHARED, alignment=1024]()

    @always_inline
    @__parameter
    def fetch_both(tile: Int):
        var stage = shared.unsafe_offset(tile % STAGES * 2 * TILE)
        fetch[side, THREADS](stage, x, first_row, rows, tile * DEPTH, terms)
        fetch[side, THREADS](
            stage.unsafe_offset(TILE), w, first_output, outputs, tile * DEPTH, terms
        )

    launch_dependent_grids()
    wait_on_dependent_grids()
    comptime for ahead in range(STAGES - 1):
        if ahead < tiles:
            fetch_both(ahead)
        async_copy_commit_group()
    var sums = Array[SIMD[F32, 4], length=DOWN * ACROSS](fill=SIMD[F32, 4](0))
    for tile in range(tiles):
        async_copy_wait_group(Int32(STAGES - 2))
        barrier()
        if tile + STAGES - 1 < tiles:
            fetch_both(tile + STAGES - 1)
        async_copy_commit_group()
        var x_tile = shared.unsafe_offset(tile % STAGES * 2 * TILE)
        var w_tile = x_tile.unsafe_offset(TILE)
        comptime for step in range(DEPTH // 16):
            var left = Array[SIMD[T, 8], length=DOWN](fill=SIMD[T, 8](0))
            comptime for a in range(DOWN):
                var row = own_row + a * 16 + lane % 16
                left[a] = ld_matrix[simd_width=8](
                    x_tile.unsafe_offset(place(row, step * 2 + lane // 16))
                )
            comptime for b in range(ACROSS // 2):
                var row = own_output + b * 16 + lane // 16 * 8 + lane % 8
                var right = ld_matrix[simd_width=8](
                    w_tile.unsafe_offset(place(row, step * 2 + lane // 8 % 2))
                )
                comptime for a in range(DOWN):
                    comptime for half in range(2):
                        comptime at = a * ACROSS + b * 2 + half
                        var sum = sums[at]
                        mma(sums[at], left[a], right.slice[4, offset=half * 4](), sum)

    async_copy_wait_group(0)
    barrier()
    var own = shared.bitcast[Float32]()
    comptime for a in range(DOWN):
        comptime for b in range(ACROSS):
            put_sums[side](own, own_row + a * 16, own_output + b * 8, sums[a * ACROSS + b])
    barrier()
    var to = Outputs[T](y, second, third, Int(width))
    store_tile[epilogue, side, THREADS](
        own, to, bias, residual, first_row, rows, first_output, outputs
    )


def matmul_gpu[T: DType, //, epilogue: Int](
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
    """Launch y[m, n] = epilogue(x[m, k] · w[n, k]ᵀ) in large tiles where there are enough.

    A GPU takes one kernel for tiles of all sizes: a sum is the same to the last bit in each.
    """

    @__parameter
    def launch[side: Int]() raises:
        comptime kernel = matmul_kernel[T, epilogue, side]
        comptime bytes = stages_of(side) * 2 * side * DEPTH * size_of[Scalar[T]]()
        ctx.enqueue_function[kernel](
            y.first, y.second, y.third, Int32(y.width), x, w, bias, residual,
            Int32(m), Int32(n), Int32(k),
            grid_dim=((n + side - 1) // side, (m + side - 1) // side),
            block_dim=THREADS,
            shared_mem_bytes=bytes,
            func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(UInt32(bytes)),
            attributes=early_launch(),
        )

    var tiles = ((m + LARGE - 1) // LARGE) * ((n + LARGE - 1) // LARGE)
    comptime if is_hopper():
        if tiles > FEW_TILES:
            matmul_hopper[epilogue, 2 * GROUP_ROWS](y, x, w, bias, residual, m, n, k, ctx)
        else:
            matmul_hopper[epilogue, GROUP_ROWS](y, x, w, bias, residual, m, n, k, ctx)
    else:
        if tiles >= ENOUGH_TILES:
            launch[LARGE]()
        else:
            launch[SMALL]()


def in_one[T: DType, //](y: OutputTensor[dtype=T, rank=2, ...]) -> Outputs[T]:
    """All outputs in one matrix."""
    return Outputs[T](y.unsafe_ptr(), y.unsafe_ptr(), y.unsafe_ptr(), y.dim_size(1))


@extensibility.register("mwc_gpu_matmul")
struct GPUMatmul:
    """y[m, n] = act(x[m, k] · w[n, k]ᵀ + bias[n]); act is GELU where `activation` is 1."""

    @staticmethod
    def execute[target: StaticString, T: DType, activation: Int](
        y: OutputTensor[dtype=T, rank=2, ...],
        x: InputTensor[dtype=T, rank=2, ...],
        w: InputTensor[dtype=T, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime epilogue = BIAS_GELU if activation == 1 else BIAS
        matmul_gpu[epilogue](
            in_one(y), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), x.unsafe_ptr(),
            x.dim_size(0), y.dim_size(1), x.dim_size(1), ctx,
        )


@extensibility.register("mwc_gpu_matmul_residual")
struct GPUMatmulResidual:
    """y[m, n] = x[m, k] · w[n, k]ᵀ + bias[n] + residual[m, n]."""

    @staticmethod
    def execute[target: StaticString, T: DType](
        y: OutputTensor[dtype=T, rank=2, ...],
        x: InputTensor[dtype=T, rank=2, ...],
        w: InputTensor[dtype=T, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        residual: InputTensor[dtype=T, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        matmul_gpu[BIAS_RESIDUAL](
            in_one(y), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(),
            residual.unsafe_ptr(), x.dim_size(0), y.dim_size(1), x.dim_size(1), ctx,
        )


@extensibility.register("mwc_gpu_matmul_thirds")
struct GPUMatmulThirds:
    """x[m, k] · w[3 * n, k]ᵀ + bias[3 * n] as three matrices [m, n]; LARGE divides n."""

    @staticmethod
    def execute[target: StaticString, T: DType](
        first: OutputTensor[dtype=T, rank=2, ...],
        second: OutputTensor[dtype=T, rank=2, ...],
        third: OutputTensor[dtype=T, rank=2, ...],
        x: InputTensor[dtype=T, rank=2, ...],
        w: InputTensor[dtype=T, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var y = Outputs[T](
            first.unsafe_ptr(), second.unsafe_ptr(), third.unsafe_ptr(), first.dim_size(1)
        )
        matmul_gpu[BIAS](
            y, x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), x.unsafe_ptr(),
            x.dim_size(0), w.dim_size(0), x.dim_size(1), ctx,
        )
