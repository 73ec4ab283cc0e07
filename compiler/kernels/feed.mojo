"""What changes when a chosen token is fed to its row: between two steps that the host does not see."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .feed_gpu import feed_gpu
from .rules import LAST, LAST_TIMESTAMP, N_SAMPLED, PENULTIMATE, STATE_SIZE

comptime I32 = DType.int32
comptime ENDED = Int32(-1)
"""The position of every row, and how many tokens it has sampled, once all have ended."""


@always_inline
def all_ended(positions: Pointer[Int32, _]) -> Bool:
    """Whether nothing is to be computed any more; `positions` are those of at least one row."""
    return positions[unsafe_offset=0] == ENDED


@extensibility.register("mwc_feed")
struct Feed:
    """The inputs of the step that feeds `chosen`: `mwc.runtime.rules.feed` on the device.

    Inputs: chosen int32 [n, 1], positions int32 [n], rule_states int32 [n, 6], begin int32 [1], the
    first timestamp's id. Outputs: tokens int32 [n], positions int32 [n], rule_states int32 [n, 6].

    `eot`: the token with which a row ends; once all have, positions and counts of sampled tokens are
    ENDED, and operations that know of it compute nothing. -1: never.
    """

    @staticmethod
    def execute[target: StaticString, eot: Int](
        tokens: OutputTensor[dtype=I32, rank=1, ...],
        next_positions: OutputTensor[dtype=I32, rank=1, ...],
        next_states: OutputTensor[dtype=I32, rank=2, ...],
        chosen: InputTensor[dtype=I32, rank=2, ...],
        positions: InputTensor[dtype=I32, rank=1, ...],
        rule_states: InputTensor[dtype=I32, rank=2, ...],
        begin: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime if target == "gpu":
            feed_gpu(
                tokens.unsafe_ptr(), next_positions.unsafe_ptr(), next_states.unsafe_ptr(),
                chosen.unsafe_ptr(), positions.unsafe_ptr(), rule_states.unsafe_ptr(),
                begin.unsafe_ptr(), chosen.dim_size(0), ctx,
            )
            return
        var first_timestamp = begin.unsafe_ptr()[unsafe_offset=0]
        var going_on = not all_ended(positions.unsafe_ptr())
        comptime if eot >= 0:
            var n_going_on = 0
            for i in range(chosen.dim_size(0)):
                n_going_on += Int(chosen.unsafe_ptr()[unsafe_offset=i] != Int32(eot))
            going_on = going_on and n_going_on > 0
        for i in range(chosen.dim_size(0)):
            var token = chosen.unsafe_ptr()[unsafe_offset=i]
            var state = rule_states.unsafe_ptr().unsafe_offset(i * STATE_SIZE)
            var after = next_states.unsafe_ptr().unsafe_offset(i * STATE_SIZE)
            for column in range(STATE_SIZE):
                after[unsafe_offset=column] = state[unsafe_offset=column]
            after[unsafe_offset=LAST] = token
            after[unsafe_offset=PENULTIMATE] = state[unsafe_offset=LAST]
            if token >= first_timestamp:
                after[unsafe_offset=LAST_TIMESTAMP] = token
            tokens.unsafe_ptr()[unsafe_offset=i] = token
            var position = positions.unsafe_ptr()[unsafe_offset=i] + 1
            var n_sampled = state[unsafe_offset=N_SAMPLED] + 1
            next_positions.unsafe_ptr()[unsafe_offset=i] = position if going_on else ENDED
            after[unsafe_offset=N_SAMPLED] = n_sampled if going_on else ENDED
