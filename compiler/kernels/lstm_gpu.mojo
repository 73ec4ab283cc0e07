"""The speech detector's LSTM on GPUs: a block for a sequence, a thread for a gate; see lstm.mojo.

Frames follow one another, so a frame has to be short: its 256 KiB of weights stay on the
multiprocessor, most of a gate's in its thread's registers and the rest in shared memory. Sequences
take no longer together than the longest of them, as long as there are multiprocessors.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu import MAX_THREADS_PER_BLOCK_METADATA, WARP_SIZE, barrier, block_idx, thread_idx
from max.gpu.host import DeviceContext, FuncAttribute
from max.gpu.memory import AddressSpace, external_memory
from max.gpu.primitives import warp
from std.memory import stack_allocation
from std.utils.static_tuple import StaticTuple

from .linear import sigmoid, tanh
from .vad import GATES, HALF, PANEL

comptime F32 = DType.float32
comptime UNITS = GATES // 4
comptime KEPT = 96 if WARP_SIZE == 32 else 112
"""Weights of a gate in registers; the other 32 are 64 KiB for all gates. AMD's multiprocessors have
twice the registers, and 64 KiB of shared memory for everything."""
comptime REST = UNITS - KEPT
comptime WIDTH = 4
"""Of the state read at once."""
comptime UNIT_WARPS = UNITS // WARP_SIZE

comptime Some = SIMD[F32, WIDTH]
comptime Floats = Pointer[Float32, ImmutAnyOrigin]


@__llvm_metadata(MAX_THREADS_PER_BLOCK_METADATA=StaticTuple[Int32, 1](GATES))
def lstm_kernel(
    probabilities: Pointer[Float32, MutAnyOrigin],
    new_state: Pointer[Float32, MutAnyOrigin],
    gates: Floats,
    state: Floats,
    counts: Pointer[Int32, ImmutAnyOrigin],
    recurrent: Floats,
    weight: Floats,
    bias: Floats,
):
    """Block s has sequence s; thread g sums gate g, thread u < 128 then moves unit u on."""
    comptime SHARED = AddressSpace.SHARED
    var tid = Int(thread_idx.x)
    var rest = external_memory[Float32, address_space=SHARED, alignment=16]()
    var hidden = stack_allocation[UNITS, Float32, address_space=SHARED, alignment=16]()
    var sums = stack_allocation[GATES, Float32, address_space=SHARED]()
    var parts = stack_allocation[UNIT_WARPS, Float32, address_space=SHARED]()
    # A unit's input gate in `sums`; its other gates follow 16 apart.
    var mine = tid // HALF * 4 * HALF + tid % HALF
    var own = recurrent.unsafe_offset(tid // PANEL * UNITS * PANEL + tid % PANEL)
    var kept = Array[Some, length=KEPT // WIDTH](fill=Some(0))
    comptime for k in range(KEPT):
        kept[k // WIDTH][k % WIDTH] = own[unsafe_offset=k * PANEL]
    for k in range(REST):
        rest[unsafe_offset=k * GATES + tid] = own[unsafe_offset=(KEPT + k) * PANEL]
    var sequence = Int(block_idx.x)
    var first = 0
    for before in range(sequence):
        first += Int(counts[unsafe_offset=before])
    var end = first + Int(counts[unsafe_offset=sequence])
    var cell = Float32(0)
    var output = Float32(0)
    if tid < UNITS:
        hidden[unsafe_offset=tid] = state[unsafe_offset=sequence * 2 * UNITS + tid]
        cell = state[unsafe_offset=sequence * 2 * UNITS + UNITS + tid]
        output = weight[unsafe_offset=tid]
    barrier()
    var gate = gates[unsafe_offset=first * GATES + tid]
    for f in range(first, end):
        var next_gate = gates[unsafe_offset=min(f + 1, end - 1) * GATES + tid]
        var sum = Some(0)
        comptime for k in range(0, UNITS, WIDTH):
            var h = hidden.unsafe_load[width=WIDTH, alignment=16](k)
            comptime if k < KEPT:
                sum = kept[k // WIDTH].fma(h, sum)
            else:
                var w = Some(0)
                comptime for e in range(WIDTH):
                    w[e] = rest[unsafe_offset=(k + e - KEPT) * GATES + tid]
                sum = w.fma(h, sum)
        sums[unsafe_offset=tid] = gate + sum.reduce_add()
        gate = next_gate
        barrier()
        if tid < UNITS:
            var remembered = sigmoid[1](sums[unsafe_offset=mine + HALF]) * cell
            var added = sigmoid[1](sums[unsafe_offset=mine])
            cell = remembered + added * tanh[1](sums[unsafe_offset=mine + 2 * HALF])
            var h = sigmoid[1](sums[unsafe_offset=mine + 3 * HALF]) * tanh[1](cell)
            hidden[unsafe_offset=tid] = h
            var part = warp.sum(max(h, Float32(0)) * output)
            if tid % WARP_SIZE == 0:
                parts[unsafe_offset=tid // WARP_SIZE] = part
        barrier()
        if tid == 0:
            var logit = bias[]
            comptime for part in range(UNIT_WARPS):
                logit += parts[unsafe_offset=part]
            probabilities[unsafe_offset=f] = sigmoid[1](logit)
    if tid < UNITS:
        new_state[unsafe_offset=sequence * 2 * UNITS + tid] = hidden[unsafe_offset=tid]
        new_state[unsafe_offset=sequence * 2 * UNITS + UNITS + tid] = cell


@extensibility.register("mwc_gpu_lstm")
struct GPULstm:
    """probabilities[frames] of gates[frames, 512], and new_state[sequences, 2, 128].

    Frames and sequences are as in speech.mojo. A block for each sequence.
    """

    @staticmethod
    def execute[target: StaticString](
        probabilities: OutputTensor[dtype=F32, rank=1, ...],
        new_state: OutputTensor[dtype=F32, rank=3, ...],
        gates: InputTensor[dtype=F32, rank=2, ...],
        state: InputTensor[dtype=F32, rank=3, ...],
        counts: InputTensor[dtype=DType.int32, rank=1, ...],
        recurrent: InputTensor[dtype=F32, rank=3, ...],
        weight: InputTensor[dtype=F32, rank=1, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime bytes = REST * GATES * 4
        ctx.enqueue_function[lstm_kernel](
            probabilities.unsafe_ptr(), new_state.unsafe_ptr(), gates.unsafe_ptr(),
            state.unsafe_ptr(), counts.unsafe_ptr(), recurrent.unsafe_ptr(), weight.unsafe_ptr(),
            bias.unsafe_ptr(),
            grid_dim=counts.dim_size(0), block_dim=GATES,
            shared_mem_bytes=bytes,
            func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(UInt32(bytes)),
        )
