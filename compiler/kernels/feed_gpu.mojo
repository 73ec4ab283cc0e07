"""Feeding chosen tokens on GPUs: a block for each row, a thread for each column; see feed.mojo."""

from extensibility import InputTensor, OutputTensor
from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.utils.index import IndexList

from .rules import LAST, LAST_TIMESTAMP, N_SAMPLED, PENULTIMATE, STATE_SIZE

comptime I32 = DType.int32


def feed_gpu(
    tokens: OutputTensor[dtype=I32, rank=1, ...],
    next_positions: OutputTensor[dtype=I32, rank=1, ...],
    next_states: OutputTensor[dtype=I32, rank=2, ...],
    chosen: InputTensor[dtype=I32, rank=2, ...],
    positions: InputTensor[dtype=I32, rank=1, ...],
    rule_states: InputTensor[dtype=I32, rank=2, ...],
    begin: InputTensor[dtype=I32, rank=1, ...],
    ctx: DeviceContext,
) raises:
    """Launch the blocks; the first thread of each also moves its row's token and position on."""

    @parameter
    def row():
        var i = Int(block_idx.x)
        var column = Int(thread_idx.x)
        var token = chosen.load[1](IndexList[2](i, 0))
        var value = rule_states.load[1](IndexList[2](i, column))
        if column == LAST:
            value = token
        elif column == PENULTIMATE:
            value = rule_states.load[1](IndexList[2](i, LAST))
        elif column == LAST_TIMESTAMP:
            if token >= begin.load[1](IndexList[1](0)):
                value = token
        elif column == N_SAMPLED:
            value += 1
        next_states.store[1](IndexList[2](i, column), value)
        if column == 0:
            tokens.store[1](IndexList[1](i), token)
            next_positions.store[1](IndexList[1](i), positions.load[1](IndexList[1](i)) + 1)

    ctx.enqueue_function[row](grid_dim=chosen.dim_size(0), block_dim=STATE_SIZE)
