"""Feeding chosen tokens on GPUs: a block for each row, a thread for each column; see feed.mojo."""

from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.primitives.grid_controls import launch_dependent_grids, wait_on_dependent_grids

from .early_launch_gpu import early_launch
from .rules import LAST, LAST_TIMESTAMP, N_SAMPLED, PENULTIMATE, STATE_SIZE

comptime Results = Pointer[Int32, MutAnyOrigin]
comptime Ints = Pointer[Int32, ImmutAnyOrigin]


def feed_kernel(
    tokens: Results,
    next_positions: Results,
    next_states: Results,
    chosen: Ints,
    positions: Ints,
    rule_states: Ints,
    begin: Ints,
):
    """The first thread of a block also moves its row's token and position on.

    Tokens, positions, chosen [n], states [n, STATE_SIZE]; begin: the first timestamp's id.
    """
    launch_dependent_grids()
    wait_on_dependent_grids()
    var i = Int(block_idx.x)
    var column = Int(thread_idx.x)
    var token = chosen[unsafe_offset=i]
    var state = rule_states.unsafe_offset(i * STATE_SIZE)
    var value = state[unsafe_offset=column]
    if column == LAST:
        value = token
    elif column == PENULTIMATE:
        value = state[unsafe_offset=LAST]
    elif column == LAST_TIMESTAMP:
        if token >= begin[]:
            value = token
    elif column == N_SAMPLED:
        value += 1
    next_states[unsafe_offset=i * STATE_SIZE + column] = value
    if column == 0:
        tokens[unsafe_offset=i] = token
        next_positions[unsafe_offset=i] = positions[unsafe_offset=i] + 1


def feed_gpu(
    tokens: Results,
    next_positions: Results,
    next_states: Results,
    chosen: Ints,
    positions: Ints,
    rule_states: Ints,
    begin: Ints,
    rows: Int,
    ctx: DeviceContext,
) raises:
    """Launch `feed_kernel` for some rows."""
    ctx.enqueue_function[feed_kernel](
        tokens, next_positions, next_states, chosen, positions, rule_states, begin,
        grid_dim=rows, block_dim=STATE_SIZE, attributes=early_launch(),
    )
