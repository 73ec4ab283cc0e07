"""Linear layers of a few rows on tensor cores: y = epilogue(x · wᵀ), in bfloat16 or float16.

Decoding reads every weight for a few rows, so a block's warps share the terms of eight or sixteen
outputs: of sixteen warps each takes every sixteenth run of 32 terms, and what they have is added at
the end in their order. The outputs are the columns of the tensor cores' products and the rows their rows: one
row's sum is the same whatever the other fifteen hold, and however many there are.

Of a run of 32 terms a thread reads eight neighbours, for the weights and for x alike. The products
(m16n8k16) want pairs that lie further apart, but any order of the terms will do, as long as both
sides have the same.

Of sixteen rows or fewer the layer norm before the product can be made by every block for itself,
into its shared memory: each would otherwise wait for one more launch. It is norm_gpu.mojo's, to the
last bit.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu import MAX_THREADS_PER_BLOCK_METADATA, WARP_SIZE, barrier, block_idx, grid_dim, thread_idx
from max.gpu.compute.mma import mma
from max.gpu.host import DeviceContext, FuncAttribute
from max.gpu.memory import AddressSpace, external_memory
from max.gpu.primitives.grid_controls import launch_dependent_grids, wait_on_dependent_grids
from std.sys import size_of
from std.utils.static_tuple import StaticTuple

from .early_launch_gpu import early_launch
from .linear import BIAS, BIAS_GELU, BIAS_RESIDUAL, NONE, gelu
from .norm_gpu import AT_ONCE, HELD, norm_gpu, norm_row

comptime F32 = DType.float32
comptime RUN = 32
"""Terms that a warp takes at a time; they divide k."""
comptime ROWS = 16
comptime OUTPUTS = 8
"""What one product of the tensor cores has."""
comptime MANY = 2560
"""Outputs from which on a block has two groups: there are still blocks for all of a GPU."""
comptime TAKEN = 8
"""Neighbouring terms that a thread reads at once, 16 bytes."""
comptime MOST_BLOCKS = 396
"""Blocks for the vocabulary: they take its outputs in turns, their weights read ahead."""
comptime MOST_NORMED = 1280
"""Terms up to which a block makes the norm itself."""
comptime BETWEEN = 32
"""What lies between normed rows, so that lanes read two of them from different banks."""


def warps_of(epilogue: Int) -> Int:
    """Warps of a block: where blocks take turns there are several on a multiprocessor."""
    return 8 if epilogue == NONE else 16


@always_inline
def bytes_of_sums(epilogue: Int, row_groups: Int, output_groups: Int) -> Int:
    """What the warps of a block add up at the end, in shared memory."""
    return warps_of(epilogue) * ROWS * row_groups * OUTPUTS * output_groups * size_of[Float32]()


@always_inline
def bytes_of_norm[T: DType](rows: Int, terms: Int) -> Int:
    """Its weight and bias and the normed rows, in shared memory."""
    return 2 * terms * size_of[Float32]() + rows * (terms + BETWEEN) * size_of[Scalar[T]]()


@__llvm_metadata(
    MAX_THREADS_PER_BLOCK_METADATA=StaticTuple[Int32, 1](Int32(warps_of(epilogue) * WARP_SIZE))
)
def few_rows_kernel[
    T: DType, OUT: DType, epilogue: Int, row_groups: Int, output_groups: Int, normed: Bool
](
    y: Pointer[Scalar[OUT], MutAnyOrigin],
    x: Pointer[Scalar[T], ImmutAnyOrigin],
    w: Pointer[Scalar[T], ImmutAnyOrigin],
    bias: Pointer[Float32, ImmutAnyOrigin],
    residual: Pointer[Scalar[T], ImmutAnyOrigin],
    gamma: Pointer[Float32, ImmutAnyOrigin],
    beta: Pointer[Float32, ImmutAnyOrigin],
    m: Int32,
    n: Int32,
    k: Int32,
):
    """A block: `output_groups` of eight outputs, for `row_groups` of sixteen rows.

    `bias` [n] and `residual` [m, n] are read only where the epilogue names them. Without one, blocks
    are fewer than outputs and take them in turns. Where x is to be `normed` first, gamma and beta [k]
    are the norm's weight and bias. Shared memory holds `bytes_of_sums`, and before them, in the same
    place, `bytes_of_norm`.
    """
    comptime assert not (normed and epilogue == NONE), "blocks that take turns do not make norms"
    comptime assert not normed or MOST_NORMED <= HELD * AT_ONCE, "a lane reads a row of x at once"
    comptime WARPS = warps_of(epilogue)
    comptime THREADS = WARPS * WARP_SIZE
    comptime IN_TURNS = epilogue == NONE
    comptime AHEAD = 3 if output_groups == 1 else 2
    comptime BLOCK_ROWS = ROWS * row_groups
    comptime BLOCK_OUTPUTS = OUTPUTS * output_groups
    comptime Taken = SIMD[T, TAKEN]
    var terms = Int(k)
    var outputs = Int(n)
    var tid = Int(thread_idx.x)
    var lane = tid % WARP_SIZE
    var own_warp = tid // WARP_SIZE
    var first_row = Int(block_idx.y) * BLOCK_ROWS
    var rows = min(Int(m) - first_row, BLOCK_ROWS)
    # In a product a thread has row and output lane // 4, and a quarter of the terms.
    var line = lane // 4
    var quarter = lane % 4 * TAKEN
    var runs = terms // RUN

    @always_inline
    @__parameter
    def read_weights(first_output: Int, first: Int) -> Array[Taken, length=AHEAD * output_groups]:
        var read = Array[Taken, length=AHEAD * output_groups](fill=Taken(0))
        comptime for u in range(AHEAD):
            var run = first + u * WARPS
            if run < runs and first_output < outputs:
                comptime for b in range(output_groups):
                    var j = min(first_output + b * OUTPUTS + line, outputs - 1)
                    read[u * output_groups + b] = w.unsafe_load[width=TAKEN, alignment=16](
                        j * terms + run * RUN + quarter
                    )
        return read^

    var parts = external_memory[Float32, address_space=AddressSpace.SHARED, alignment=16]()
    var own_gamma = parts
    var own_beta = parts.unsafe_offset(terms)
    var own_x = parts.unsafe_offset(2 * terms).unsafe_bitcast[Scalar[T]]()
    var stride = terms + BETWEEN

    @always_inline
    @__parameter
    def read_x(i: Int, at: Int) -> Taken:
        if i >= rows:
            return Taken(0)
        comptime if normed:
            return own_x.unsafe_load[width=TAKEN, alignment=16](i * stride + at)
        return x.unsafe_load[width=TAKEN, alignment=16]((first_row + i) * terms + at)

    comptime PART = BLOCK_ROWS * BLOCK_OUTPUTS
    var step = Int(grid_dim.x) * BLOCK_OUTPUTS
    launch_dependent_grids()
    var weights = read_weights(Int(block_idx.x) * BLOCK_OUTPUTS, own_warp)
    comptime if normed:
        for c in range(tid * 4, terms, THREADS * 4):
            own_gamma.unsafe_store[alignment=16](c, gamma.unsafe_load[width=4, alignment=16](c))
            own_beta.unsafe_store[alignment=16](c, beta.unsafe_load[width=4, alignment=16](c))
    wait_on_dependent_grids()
    comptime if normed:
        barrier()
        for i in range(own_warp, rows, WARPS):
            var row = x.unsafe_offset((first_row + i) * terms)
            norm_row[False](own_x.unsafe_offset(i * stride), row, own_gamma, own_beta, terms, lane)
        barrier()
    for first_output in range(Int(block_idx.x) * BLOCK_OUTPUTS, outputs, step):
        var sums = Array[SIMD[F32, 4], length=row_groups * output_groups](fill=SIMD[F32, 4](0))
        for first in range(own_warp, max(runs, own_warp + 1) if IN_TURNS else runs, AHEAD * WARPS):
            var from_output = first_output
            var from_run = first + AHEAD * WARPS
            comptime if IN_TURNS:
                if from_run >= runs:
                    from_output += step
                    from_run = own_warp
            var next = read_weights(from_output, from_run)
            comptime for u in range(AHEAD):
                var run = first + u * WARPS
                if run < runs:
                    var at = run * RUN + quarter
                    comptime for a in range(row_groups):
                        var upper = read_x(a * ROWS + line, at)
                        var lower = read_x(a * ROWS + line + ROWS // 2, at)
                        comptime for half in range(2):
                            comptime e = half * 4
                            var left = SIMD[T, 8](
                                upper[e], upper[e + 1], lower[e], lower[e + 1],
                                upper[e + 2], upper[e + 3], lower[e + 2], lower[e + 3],
                            )
                            comptime for b in range(output_groups):
                                var right = weights[u * output_groups + b].slice[4, offset=e]()
                                var sum = sums[a * output_groups + b]
                                mma(sums[a * output_groups + b], left, right, sum)
            weights = next^

        comptime if normed:
            barrier()
        comptime for a in range(row_groups):
            comptime for b in range(output_groups):
                comptime for e in range(4):
                    var row = a * ROWS + line + (e // 2) * (ROWS // 2)
                    var column = b * OUTPUTS + lane % 4 * 2 + e % 2
                    parts[unsafe_offset=own_warp * PART + row * BLOCK_OUTPUTS + column] = sums[
                        a * output_groups + b
                    ][e]
        barrier()
        for i in range(tid, rows * BLOCK_OUTPUTS, THREADS):
            var j = first_output + i % BLOCK_OUTPUTS
            if j < outputs:
                var sum = Float32(0)
                comptime for part in range(WARPS):
                    sum += parts[unsafe_offset=part * PART + i]
                var at = (first_row + i // BLOCK_OUTPUTS) * outputs + j
                comptime if epilogue != NONE:
                    sum += bias[unsafe_offset=j]
                comptime if epilogue == BIAS_GELU:
                    sum = gelu[1](sum)
                comptime if epilogue == BIAS_RESIDUAL:
                    sum += residual[unsafe_offset=at].cast[F32]()
                y[unsafe_offset=at] = sum.cast[OUT]()
        comptime if not IN_TURNS:
            return
        barrier()


def few_rows_gpu[T: DType, OUT: DType, //, epilogue: Int, normed: Bool = False](
    y: Pointer[Scalar[OUT], MutAnyOrigin],
    x: Pointer[Scalar[T], ImmutAnyOrigin],
    w: Pointer[Scalar[T], ImmutAnyOrigin],
    bias: Pointer[Float32, ImmutAnyOrigin],
    residual: Pointer[Scalar[T], ImmutAnyOrigin],
    gamma: Pointer[Float32, ImmutAnyOrigin],
    beta: Pointer[Float32, ImmutAnyOrigin],
    m: Int,
    n: Int,
    k: Int,
    ctx: DeviceContext,
) raises:
    """Launch y[m, n] = epilogue(x[m, k] · w[n, k]ᵀ); RUN divides k. See `few_rows_kernel`.

    Sixteen outputs of a block share what it reads of x; eight are more blocks. Where x is to be
    `normed` first, m is at most ROWS and k at most MOST_NORMED.
    """

    @__parameter
    def launch[row_groups: Int, output_groups: Int]() raises:
        comptime kernel = few_rows_kernel[T, OUT, epilogue, row_groups, output_groups, normed]
        comptime sums = bytes_of_sums(epilogue, row_groups, output_groups)
        comptime most = max(sums, bytes_of_norm[T](ROWS, MOST_NORMED) if normed else 0)
        comptime outputs = OUTPUTS * output_groups
        comptime rows = ROWS * row_groups
        var blocks = (n + outputs - 1) // outputs
        comptime if epilogue == NONE:
            blocks = min(blocks, MOST_BLOCKS)
        ctx.enqueue_function[kernel](
            y, x, w, bias, residual, gamma, beta, Int32(m), Int32(n), Int32(k),
            grid_dim=(blocks, (m + rows - 1) // rows),
            block_dim=warps_of(epilogue) * WARP_SIZE,
            shared_mem_bytes=max(sums, bytes_of_norm[T](m, k)) if normed else sums,
            func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(UInt32(most)),
            attributes=early_launch(),
        )

    if m <= ROWS:
        if n >= MANY:
            launch[1, 2]()
        else:
            launch[1, 1]()
    else:
        comptime if not normed:
            launch[2, 2]()


@extensibility.register("mwc_gpu_few_rows")
struct GPUFewRows:
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
        few_rows_gpu[epilogue](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), x.unsafe_ptr(),
            bias.unsafe_ptr(), bias.unsafe_ptr(), x.dim_size(0), y.dim_size(1), x.dim_size(1), ctx,
        )


@extensibility.register("mwc_gpu_norm_few_rows")
struct GPUNormFewRows:
    """y[m, n] = act(norm(x[m, k]) · w[n, k]ᵀ + bias[n]); k is at most MOST_NORMED.

    `normed` [m, k] is memory to work with, for more rows than a block takes.
    """

    @staticmethod
    def execute[target: StaticString, T: DType, activation: Int](
        y: OutputTensor[dtype=T, rank=2, ...],
        normed: OutputTensor[dtype=T, rank=2, ...],
        x: InputTensor[dtype=T, rank=2, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w: InputTensor[dtype=T, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime epilogue = BIAS_GELU if activation == 1 else BIAS
        var m = x.dim_size(0)
        var n = y.dim_size(1)
        var k = x.dim_size(1)
        if m <= ROWS:
            few_rows_gpu[epilogue, True](
                y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), x.unsafe_ptr(),
                gamma.unsafe_ptr(), beta.unsafe_ptr(), m, n, k, ctx,
            )
            return
        var rows = normed.unsafe_ptr()
        norm_gpu(rows, x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(), m, k, ctx)
        few_rows_gpu[epilogue](
            y.unsafe_ptr(), rows, w.unsafe_ptr(), bias.unsafe_ptr(), x.unsafe_ptr(),
            gamma.unsafe_ptr(), beta.unsafe_ptr(), m, n, k, ctx,
        )


@extensibility.register("mwc_gpu_few_rows_residual")
struct GPUFewRowsResidual:
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
        few_rows_gpu[BIAS_RESIDUAL](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(),
            residual.unsafe_ptr(), bias.unsafe_ptr(), bias.unsafe_ptr(), x.dim_size(0),
            y.dim_size(1), x.dim_size(1), ctx,
        )


@extensibility.register("mwc_gpu_few_rows_product")
struct GPUFewRowsProduct:
    """y[m, n] = x[m, k] · w[n, k]ᵀ, in float32."""

    @staticmethod
    def execute[target: StaticString, T: DType](
        y: OutputTensor[dtype=F32, rank=2, ...],
        x: InputTensor[dtype=T, rank=2, ...],
        w: InputTensor[dtype=T, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        few_rows_gpu[NONE](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), y.unsafe_ptr(), x.unsafe_ptr(),
            y.unsafe_ptr(), y.unsafe_ptr(), x.dim_size(0), y.dim_size(1), x.dim_size(1), ctx,
        )
