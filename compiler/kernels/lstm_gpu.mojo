"""The speech detector's LSTM on GPUs: one block, a thread for each gate; see lstm.mojo for what."""

from extensibility import InputTensor, OutputTensor
from max.gpu import barrier, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.memory import AddressSpace
from std.memory import stack_allocation
from std.utils.index import IndexList

from .linear import sigmoid, tanh
from .vad import GATES, HALF, PANEL

comptime F32 = DType.float32
comptime UNITS = GATES // 4


def lstm_gpu(
    probabilities: OutputTensor[dtype=F32, rank=1, ...],
    new_state: OutputTensor[dtype=F32, rank=2, ...],
    gates: InputTensor[dtype=F32, rank=2, ...],
    state: InputTensor[dtype=F32, rank=2, ...],
    recurrent: InputTensor[dtype=F32, rank=3, ...],
    weight: InputTensor[dtype=F32, rank=1, ...],
    bias: InputTensor[dtype=F32, rank=1, ...],
    ctx: DeviceContext,
) raises:
    """Launch the block; thread g sums gate g, thread u < 128 then moves unit u on."""

    @parameter
    def walk(frames: Int32):
        var tid = Int(thread_idx.x)
        var hidden = stack_allocation[UNITS, Float32, address_space=AddressSpace.SHARED]()
        var sums = stack_allocation[GATES, Float32, address_space=AddressSpace.SHARED]()
        var parts = stack_allocation[UNITS, Float32, address_space=AddressSpace.SHARED]()
        # A unit's input gate in `sums`; its other gates follow 16 apart.
        var mine = tid // HALF * 4 * HALF + tid % HALF
        var cell = Float32(0)
        if tid < UNITS:
            hidden[unsafe_offset=tid] = Float32(state.load[1](IndexList[2](0, tid)))
            cell = Float32(state.load[1](IndexList[2](1, tid)))
        barrier()
        for f in range(Int(frames)):
            var sum = Float32(gates.load[1](IndexList[2](f, tid)))
            for k in range(UNITS):
                var w = Float32(recurrent.load[1](IndexList[3](tid // PANEL, k, tid % PANEL)))
                sum += w * hidden[unsafe_offset=k]
            sums[unsafe_offset=tid] = sum
            barrier()
            if tid < UNITS:
                var kept = sigmoid[1](sums[unsafe_offset=mine + HALF]) * cell
                var added = sigmoid[1](sums[unsafe_offset=mine])
                cell = kept + added * tanh[1](sums[unsafe_offset=mine + 2 * HALF])
                var h = sigmoid[1](sums[unsafe_offset=mine + 3 * HALF]) * tanh[1](cell)
                hidden[unsafe_offset=tid] = h
                var w = Float32(weight.load[1](IndexList[1](tid)))
                parts[unsafe_offset=tid] = max(h, Float32(0)) * w
            barrier()
            if tid == 0:
                var logit = Float32(bias.load[1](IndexList[1](0)))
                for unit in range(UNITS):
                    logit += parts[unsafe_offset=unit]
                probabilities.store[1](IndexList[1](f), sigmoid[1](logit))
        if tid < UNITS:
            new_state.store[1](IndexList[2](0, tid), hidden[unsafe_offset=tid])
            new_state.store[1](IndexList[2](1, tid), cell)

    ctx.enqueue_function[walk](Int32(gates.dim_size(0)), grid_dim=1, block_dim=GATES)
