"""Linear layers of a few rows on tensor cores: y = epilogue(x · wᵀ), in bfloat16 or float16.

Decoding reads every weight for a few rows, so a block's warps share the terms of a few groups of
eight outputs: of sixteen warps each takes every sixteenth run of 32 terms, in turn, and what they
have is added at the end in their order. The outputs are the columns of the tensor cores' products
and the rows their rows: one row's sum is the same whatever the other fifteen hold, and however many
there are. It is the same however many groups a block has, too, and however far ahead it reads: they
are other products, and each takes the same terms in the same order.

How many groups of outputs a block has is chosen by `cost_of`, so that all blocks run at a time.

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
from max.gpu.host import DeviceAttribute, DeviceContext, FuncAttribute
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
comptime MOST_GROUPS = 5
"""Groups of OUTPUTS that a block has: an H100 then takes the largest matrix's blocks at a time."""
comptime TAKEN = 8
"""Neighbouring terms that a thread reads at once, 16 bytes."""
comptime MOST_NORMED = 1280
"""Terms up to which a block makes the norm itself."""
comptime BETWEEN = 32
"""What lies between normed rows, so that lanes read two of them from different banks."""


def warps_of(epilogue: Int) -> Int:
    """Warps of a block: where blocks take turns there are several on a multiprocessor."""
    return 8 if epilogue == NONE else 16


def ahead_of(epilogue: Int, row_groups: Int, output_groups: Int) -> Int:
    """Runs whose weights a warp reads ahead; three are all that it has of MOST_NORMED terms."""
    if epilogue == NONE or row_groups * output_groups >= 8:
        return 2
    return 2 if row_groups == 1 and output_groups == 3 else 3


def rows_ahead_of(epilogue: Int, row_groups: Int, output_groups: Int, normed: Bool) -> Int:
    """Runs of which a warp reads x at a time, as its registers allow."""
    return 1 if normed or epilogue == NONE or row_groups * output_groups > 4 else 3


def at_once(epilogue: Int, row_groups: Int, output_groups: Int, normed: Bool) -> Int:
    """Blocks that a multiprocessor takes at a time: no more registers than this are used."""
    if epilogue == NONE:
        return 3 if row_groups == 1 else 2
    return 2 if row_groups == 1 and output_groups <= (3 if normed else 1) else 1


def offered(epilogue: Int, row_groups: Int, output_groups: Int, normed: Bool) -> Bool:
    """Whether there are blocks of so many groups: each number takes time to compile."""
    if normed:
        return output_groups != 4
    if row_groups == 1:
        return output_groups <= 2
    return output_groups != 3 and (output_groups <= 4 or epilogue != BIAS_RESIDUAL)


def cost_of(m: Int, n: Int, row_groups: Int, groups: Int, at_once: Int, processors: Int) -> Int:
    """How long blocks of so many groups take, in rows that a multiprocessor reads.

    A block reads rows of w and rows of x. All takes as long as the multiprocessor that has most to
    read; or as all of them, to which the memory gives half of what they could take together. Blocks
    that have to wait until others have ended take as long again.
    """
    var block_rows = ROWS * row_groups
    var outputs = OUTPUTS * groups
    var blocks = (n + outputs - 1) // outputs * ((m + block_rows - 1) // block_rows)
    var read = outputs + min(m, block_rows)
    var busiest = (blocks + processors - 1) // processors * read
    var together = 2 * blocks * read // processors
    var times = (blocks + at_once * processors - 1) // (at_once * processors)
    return times * max(busiest, together)


@always_inline
def bytes_of_sums(epilogue: Int, row_groups: Int, output_groups: Int) -> Int:
    """What the warps of a block add up at the end and the outputs' bias, in shared memory."""
    var numbers = warps_of(epilogue) * ROWS * row_groups + 1
    return numbers * OUTPUTS * output_groups * size_of[Float32]()


@always_inline
def bytes_of_norm[T: DType](rows: Int, terms: Int) -> Int:
    """Its weight and bias and the normed rows, in shared memory."""
    return 2 * terms * size_of[Float32]() + rows * (terms + BETWEEN) * size_of[Scalar[T]]()


@__llvm_metadata(
    MAX_THREADS_PER_BLOCK_METADATA=StaticTuple[Int32, 1](Int32(warps_of(epilogue) * WARP_SIZE)),
    `nvvm.minctasm`=SIMDLength(at_once(epilogue, row_groups, output_groups, normed)),
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
    are the norm's weight and bias. Shared memory holds `bytes_of_sums`, then `bytes_of_norm`. The
    matrices have less than 2^32 elements.
    """
    comptime assert not (normed and epilogue == NONE), "blocks that take turns do not make norms"
    comptime assert not normed or MOST_NORMED <= HELD * AT_ONCE, "a lane reads a row of x at once"
    comptime WARPS = warps_of(epilogue)
    comptime THREADS = WARPS * WARP_SIZE
    comptime IN_TURNS = epilogue == NONE
    comptime AHEAD = ahead_of(epilogue, row_groups, output_groups)
    comptime X_AHEAD = rows_ahead_of(epilogue, row_groups, output_groups, normed)
    comptime BLOCK_ROWS = ROWS * row_groups
    comptime BLOCK_OUTPUTS = OUTPUTS * output_groups
    comptime Taken = SIMD[T, TAKEN]
    comptime Outputs = Array[Taken, length=output_groups]
    comptime Rows = Array[Taken, length=2 * row_groups]
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
    # As mutable memory, whose reads stay on their side of the wait: of others the compiler moves
    # the weights' to where they are used, after it.
    var own_w = w.unsafe_mut_cast[True]()
    var given = x.unsafe_mut_cast[True]()
    var given_bias = bias.unsafe_mut_cast[True]()
    var given_residual = residual.unsafe_mut_cast[True]()

    @always_inline
    @__parameter
    def read_weights(first_output: Int, run: Int) -> Outputs:
        var read = Outputs(fill=Taken(0))
        if run < runs:
            comptime for b in range(output_groups):
                var j = first_output + b * OUTPUTS + line
                if j < outputs:
                    read[b] = own_w.unsafe_load[width=TAKEN, alignment=16](
                        Int(UInt32(j * terms + run * RUN + quarter))
                    )
        return read^

    var shared = external_memory[Float32, address_space=AddressSpace.SHARED, alignment=16]()
    comptime PART = BLOCK_ROWS * BLOCK_OUTPUTS
    var own_bias = shared.unsafe_offset(WARPS * PART)
    var own_gamma = own_bias.unsafe_offset(BLOCK_OUTPUTS)
    var own_beta = own_gamma.unsafe_offset(terms)
    var own_x = own_beta.unsafe_offset(terms).unsafe_bitcast[Scalar[T]]()
    var stride = terms + BETWEEN

    @always_inline
    @__parameter
    def read_x(run: Int) -> Rows:
        var read = Rows(fill=Taken(0))
        if run < runs:
            comptime for a in range(2 * row_groups):
                var i = a * (ROWS // 2) + line
                if i < rows:
                    comptime if normed:
                        read[a] = own_x.unsafe_load[width=TAKEN, alignment=16](
                            Int(UInt32(i * stride + run * RUN + quarter))
                        )
                    else:
                        read[a] = given.unsafe_load[width=TAKEN, alignment=16](
                            Int(UInt32((first_row + i) * terms + run * RUN + quarter))
                        )
        return read^

    var step = Int(grid_dim.x) * BLOCK_OUTPUTS
    launch_dependent_grids()
    var weights = Array[Outputs, length=AHEAD](fill=Outputs(fill=Taken(0)))
    comptime for u in range(AHEAD):
        weights[u] = read_weights(Int(block_idx.x) * BLOCK_OUTPUTS, own_warp + u * WARPS)
    comptime if normed:
        for c in range(tid * 4, terms, THREADS * 4):
            own_gamma.unsafe_store[alignment=16](c, gamma.unsafe_load[width=4, alignment=16](c))
            own_beta.unsafe_store[alignment=16](c, beta.unsafe_load[width=4, alignment=16](c))
    # Of one output, for shared memory: put there with the sums, lest a warp waits for it before x.
    var one_bias = Float32(0)
    comptime if epilogue != NONE:
        var j = Int(block_idx.x) * BLOCK_OUTPUTS + tid
        if tid < BLOCK_OUTPUTS and j < outputs:
            one_bias = given_bias[unsafe_offset=j]
            comptime if normed:
                own_bias[unsafe_offset=tid] = one_bias
    comptime if normed:
        barrier()
    wait_on_dependent_grids()
    comptime if normed:
        for i in range(own_warp, rows, WARPS):
            var row = given.unsafe_offset((first_row + i) * terms)
            norm_row[False](own_x.unsafe_offset(i * stride), row, own_gamma, own_beta, terms, lane)
        barrier()
    comptime OWN = (PART + THREADS - 1) // THREADS
    var added = Array[Scalar[T], length=OWN](fill=0)
    comptime if epilogue == BIAS_RESIDUAL:
        comptime for e in range(OWN):
            var i = tid + e * THREADS
            var j = Int(block_idx.x) * BLOCK_OUTPUTS + i % BLOCK_OUTPUTS
            if i < rows * BLOCK_OUTPUTS and j < outputs:
                var at = (first_row + i // BLOCK_OUTPUTS) * outputs + j
                added[e] = given_residual[unsafe_offset=at]
    for first_output in range(Int(block_idx.x) * BLOCK_OUTPUTS, outputs, step):
        var sums = Array[SIMD[F32, 4], length=row_groups * output_groups](fill=SIMD[F32, 4](0))
        for first in range(own_warp, max(runs, own_warp + 1) if IN_TURNS else runs, AHEAD * WARPS):
            var from_output = first_output
            var from_run = first + AHEAD * WARPS
            comptime if IN_TURNS:
                if from_run >= runs:
                    from_output += step
                    from_run = own_warp
            var own_rows = Array[Rows, length=X_AHEAD](fill=Rows(fill=Taken(0)))
            comptime for u in range(AHEAD):
                comptime if u % X_AHEAD == 0 and not normed:
                    comptime for other in range(min(X_AHEAD, AHEAD - u)):
                        own_rows[other] = read_x(first + (u + other) * WARPS)
                var run = first + u * WARPS
                if run < runs:
                    comptime if normed:
                        own_rows[0] = read_x(run)
                    comptime for a in range(row_groups):
                        var upper = own_rows[u % X_AHEAD][2 * a]
                        var lower = own_rows[u % X_AHEAD][2 * a + 1]
                        comptime for half in range(2):
                            comptime e = half * 4
                            var left = SIMD[T, 8](
                                upper[e], upper[e + 1], lower[e], lower[e + 1],
                                upper[e + 2], upper[e + 3], lower[e + 2], lower[e + 3],
                            )
                            comptime for b in range(output_groups):
                                var right = weights[u][b].slice[4, offset=e]()
                                var sum = sums[a * output_groups + b]
                                mma(sums[a * output_groups + b], left, right, sum)
                weights[u] = read_weights(from_output, from_run + u * WARPS)

        comptime if epilogue != NONE and not normed:
            if tid < BLOCK_OUTPUTS:
                own_bias[unsafe_offset=tid] = one_bias
        comptime for a in range(row_groups):
            comptime for b in range(output_groups):
                comptime for e in range(4):
                    var row = a * ROWS + line + (e // 2) * (ROWS // 2)
                    var column = b * OUTPUTS + lane % 4 * 2 + e % 2
                    shared[unsafe_offset=own_warp * PART + row * BLOCK_OUTPUTS + column] = sums[
                        a * output_groups + b
                    ][e]
        barrier()
        comptime for e in range(OWN):
            var i = tid + e * THREADS
            var j = first_output + i % BLOCK_OUTPUTS
            if i < rows * BLOCK_OUTPUTS and j < outputs:
                var sum = Float32(0)
                comptime for part in range(WARPS):
                    sum += shared[unsafe_offset=part * PART + i]
                var at = (first_row + i // BLOCK_OUTPUTS) * outputs + j
                comptime if epilogue != NONE:
                    sum += own_bias[unsafe_offset=i % BLOCK_OUTPUTS]
                comptime if epilogue == BIAS_GELU:
                    sum = gelu[1](sum)
                comptime if epilogue == BIAS_RESIDUAL:
                    sum += added[e].cast[F32]()
                y[unsafe_offset=at] = sum.cast[OUT]()
        comptime if not IN_TURNS:
            return
        barrier()


def few_rows_gpu[T: DType, OUT: DType, //, epilogue: Int, row_groups: Int, normed: Bool = False](
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

    Where x is to be `normed` first, m is at most ROWS and k at most MOST_NORMED.
    """
    comptime BLOCK_ROWS = ROWS * row_groups
    var row_blocks = (m + BLOCK_ROWS - 1) // BLOCK_ROWS
    var processors = ctx.get_attribute(DeviceAttribute.MULTIPROCESSOR_COUNT)

    @__parameter
    def launch[output_groups: Int](most: Int) raises:
        comptime kernel = few_rows_kernel[T, OUT, epilogue, row_groups, output_groups, normed]
        comptime sums = bytes_of_sums(epilogue, row_groups, output_groups)
        comptime most_norm = bytes_of_norm[T](ROWS, MOST_NORMED) if normed else 0
        comptime outputs = OUTPUTS * output_groups
        ctx.enqueue_function[kernel](
            y, x, w, bias, residual, gamma, beta, Int32(m), Int32(n), Int32(k),
            grid_dim=(min((n + outputs - 1) // outputs, most), row_blocks),
            block_dim=warps_of(epilogue) * WARP_SIZE,
            shared_mem_bytes=sums + (bytes_of_norm[T](m, k) if normed else 0),
            func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(UInt32(sums + most_norm)),
            attributes=early_launch(),
        )

    comptime if epilogue == NONE:
        # All that run at a time: they take the outputs in turns, their weights read ahead.
        launch[2](max(at_once(NONE, row_groups, 2, False) * processors // row_blocks, 1))
        return
    var best = 0
    var least = 0
    comptime for groups in range(1, MOST_GROUPS + 1):
        comptime if offered(epilogue, row_groups, groups, normed):
            comptime resident = at_once(epilogue, row_groups, groups, normed)
            var cost = cost_of(m, n, row_groups, groups, resident, processors)
            # Larger blocks only where much is gained: smaller leave room for the next kernel's.
            if best == 0 or cost * 4 < least * 3:
                best = groups
                least = cost
    comptime for groups in range(1, MOST_GROUPS + 1):
        comptime if offered(epilogue, row_groups, groups, normed):
            if groups == best:
                launch[groups](n)


def rows_gpu[T: DType, OUT: DType, //, epilogue: Int](
    y: Pointer[Scalar[OUT], MutAnyOrigin],
    x: Pointer[Scalar[T], ImmutAnyOrigin],
    w: Pointer[Scalar[T], ImmutAnyOrigin],
    bias: Pointer[Float32, ImmutAnyOrigin],
    residual: Pointer[Scalar[T], ImmutAnyOrigin],
    m: Int,
    n: Int,
    k: Int,
    ctx: DeviceContext,
) raises:
    """As `few_rows_gpu`, of as many rows as there are, without a norm."""
    if m <= ROWS:
        few_rows_gpu[epilogue, 1](y, x, w, bias, residual, bias, bias, m, n, k, ctx)
    else:
        few_rows_gpu[epilogue, 2](y, x, w, bias, residual, bias, bias, m, n, k, ctx)


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
        rows_gpu[epilogue](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), x.unsafe_ptr(),
            x.dim_size(0), y.dim_size(1), x.dim_size(1), ctx,
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
            few_rows_gpu[epilogue, 1, True](
                y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), x.unsafe_ptr(),
                gamma.unsafe_ptr(), beta.unsafe_ptr(), m, n, k, ctx,
            )
            return
        var rows = normed.unsafe_ptr()
        norm_gpu(rows, x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(), m, k, ctx)
        few_rows_gpu[epilogue, 2](
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
        rows_gpu[BIAS_RESIDUAL](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(),
            residual.unsafe_ptr(), x.dim_size(0), y.dim_size(1), x.dim_size(1), ctx,
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
        rows_gpu[NONE](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), y.unsafe_ptr(), x.unsafe_ptr(),
            x.dim_size(0), y.dim_size(1), x.dim_size(1), ctx,
        )
