"""LayerNorm on GPUs: a warp for each row, sums in float32, weights in float32."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu import WARP_SIZE, block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.primitives import warp
from max.gpu.primitives.grid_controls import launch_dependent_grids, wait_on_dependent_grids
from std.math import rsqrt

from .early_launch_gpu import early_launch

comptime F32 = DType.float32
comptime WARPS = 4
comptime TAKEN = 8
"""Neighbours that a thread reads at once; they divide a row."""
comptime AT_ONCE = WARP_SIZE * TAKEN
comptime HELD = 5
"""What a lane keeps of a row while it is measured: rows of up to 1280 are read once."""
comptime EPSILON = Float32(1e-5)
"""torch.nn.LayerNorm's default, as in linear.mojo."""

comptime Floats = SIMD[F32, TAKEN]


@always_inline
def norm_row[T: DType, //, keeps: Bool](
    y: Pointer[mut=True, Scalar[T], _, address_space=_],
    x: Pointer[Scalar[T], _],
    gamma: Pointer[Float32, _, address_space=_],
    beta: Pointer[Float32, _, address_space=_],
    terms: Int,
    lane: Int,
):
    """A warp: y = (x - mean) / sqrt(variance + epsilon) * gamma + beta, all of them [terms].

    A lane `keeps` what it reads of x; or it has no registers for it, puts it where y will be, and
    there are at most HELD * AT_ONCE terms. The result is the same to the last bit.
    """
    comptime Taken = SIMD[T, TAKEN]
    var first = lane * TAKEN
    var rest = first + HELD * AT_ONCE if keeps else terms
    var held = Array[Taken, length=HELD](fill=Taken(0))
    var sums = Floats(0)
    comptime for r in range(HELD):
        if first + r * AT_ONCE < terms:
            held[r] = x.unsafe_load[width=TAKEN, alignment=16](first + r * AT_ONCE)
    comptime for r in range(HELD):
        sums += held[r].cast[F32]()
    comptime if not keeps:
        comptime for r in range(HELD):
            if first + r * AT_ONCE < terms:
                y.unsafe_store[alignment=16](first + r * AT_ONCE, held[r])

    @always_inline
    @__parameter
    def kept[r: Int](c: Int) -> Floats:
        comptime if keeps:
            return held[r].cast[F32]()
        # Volatile, lest the compiler finds registers after all.
        return y.unsafe_load[width=TAKEN, alignment=16, volatile=True](c).cast[F32]()

    for c in range(rest, terms, AT_ONCE):
        sums += x.unsafe_load[width=TAKEN, alignment=16](c).cast[F32]()
    var mean = warp.sum(sums.reduce_add()) / Float32(terms)
    var squares = Floats(0)
    comptime for r in range(HELD):
        var c = first + r * AT_ONCE
        # A lane past the end reads what another has, and takes none of it: no lane waits for a branch.
        var apart = kept[r](min(c, terms - TAKEN)) - mean
        if c >= terms:
            apart = Floats(0)
        squares = apart.fma(apart, squares)
    for c in range(rest, terms, AT_ONCE):
        var apart = x.unsafe_load[width=TAKEN, alignment=16](c).cast[F32]() - mean
        squares = apart.fma(apart, squares)
    var variance = warp.sum(squares.reduce_add()) / Float32(terms) + EPSILON
    var scale = rsqrt(variance)
    # One step of Newton's method: a GPU's own reciprocal root is good to 22 bits.
    scale *= 1.5 - 0.5 * variance * scale * scale

    @always_inline
    @__parameter
    def store(c: Int, values: Floats):
        var g = gamma.unsafe_load[width=TAKEN, alignment=16](c)
        var b = beta.unsafe_load[width=TAKEN, alignment=16](c)
        var normed = ((values - mean) * scale).fma(g, b).cast[T]()
        y.unsafe_store[alignment=16](c, normed)

    comptime for r in range(HELD):
        if first + r * AT_ONCE < terms:
            store(first + r * AT_ONCE, kept[r](first + r * AT_ONCE))
    for c in range(rest, terms, AT_ONCE):
        store(c, x.unsafe_load[width=TAKEN, alignment=16](c).cast[F32]())


def norm_kernel[T: DType](
    y: Pointer[Scalar[T], MutAnyOrigin],
    x: Pointer[Scalar[T], ImmutAnyOrigin],
    gamma: Pointer[Float32, ImmutAnyOrigin],
    beta: Pointer[Float32, ImmutAnyOrigin],
    m: Int32,
    k: Int32,
):
    """The norms of rows [m, k], each by a warp."""
    launch_dependent_grids()
    wait_on_dependent_grids()
    var terms = Int(k)
    var i = Int(block_idx.x) * WARPS + Int(thread_idx.x) // WARP_SIZE
    if i >= Int(m):
        return
    var lane = Int(thread_idx.x) % WARP_SIZE
    norm_row[True](y.unsafe_offset(i * terms), x.unsafe_offset(i * terms), gamma, beta, terms, lane)


def norm_gpu[T: DType, //](
    y: Pointer[Scalar[T], MutAnyOrigin],
    x: Pointer[Scalar[T], ImmutAnyOrigin],
    gamma: Pointer[Float32, ImmutAnyOrigin],
    beta: Pointer[Float32, ImmutAnyOrigin],
    m: Int,
    k: Int,
    ctx: DeviceContext,
) raises:
    """Launch the norms of rows x[m, k]; TAKEN divides k."""
    comptime kernel = norm_kernel[T]
    ctx.enqueue_function[kernel](
        y, x, gamma, beta, Int32(m), Int32(k),
        grid_dim=(m + WARPS - 1) // WARPS, block_dim=WARPS * WARP_SIZE, attributes=early_launch(),
    )


@extensibility.register("mwc_gpu_norm")
struct GPUNorm:
    """LayerNorm of rows x[m, k]; gamma and beta [k] are float32; TAKEN divides k."""

    @staticmethod
    def execute[target: StaticString, T: DType](
        y: OutputTensor[dtype=T, rank=2, ...],
        x: InputTensor[dtype=T, rank=2, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        norm_gpu(
            y.unsafe_ptr(), x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(),
            x.dim_size(0), x.dim_size(1), ctx,
        )
