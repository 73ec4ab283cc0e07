"""What changes when a chosen token is fed to its row: between two steps that the host does not see."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .feed_gpu import feed_gpu
from .rules import LAST, LAST_TIMESTAMP, N_SAMPLED, PENULTIMATE, STATE_SIZE

comptime I32 = DType.int32


@always_inline
def feed_rows(
    tokens: Pointer[mut=True, Int32, _],
    next_positions: Pointer[mut=True, Int32, _],
    next_states: Pointer[mut=True, Int32, _],
    chosen: Pointer[Int32, _],
    positions: Pointer[Int32, _],
    rule_states: Pointer[Int32, _],
    begin: Int,
    n: Int,
):
    """Put the next step's inputs of n rows; each may take the place of the last step's."""
    for i in range(n):
        var token = chosen[unsafe_offset=i]
        var state = rule_states.unsafe_offset(i * STATE_SIZE)
        var after = next_states.unsafe_offset(i * STATE_SIZE)
        var last = state[unsafe_offset=LAST]
        for column in range(STATE_SIZE):
            after[unsafe_offset=column] = state[unsafe_offset=column]
        after[unsafe_offset=LAST] = token
        after[unsafe_offset=PENULTIMATE] = last
        if Int(token) >= begin:
            after[unsafe_offset=LAST_TIMESTAMP] = token
        after[unsafe_offset=N_SAMPLED] += 1
        tokens[unsafe_offset=i] = token
        next_positions[unsafe_offset=i] = positions[unsafe_offset=i] + 1


@extensibility.register("mwc_feed")
struct Feed:
    """The inputs of the step that feeds `chosen`: `mwc.runtime.rules.feed` on the device.

    Inputs: chosen int32 [n, 1], positions int32 [n], rule_states int32 [n, 6], begin int32 [1], the
    first timestamp's id. Outputs: tokens int32 [n], positions int32 [n], rule_states int32 [n, 6].
    """

    @staticmethod
    def execute[target: StaticString](
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
        feed_rows(
            tokens.unsafe_ptr(), next_positions.unsafe_ptr(), next_states.unsafe_ptr(),
            chosen.unsafe_ptr(), positions.unsafe_ptr(), rule_states.unsafe_ptr(),
            Int(begin.unsafe_ptr()[unsafe_offset=0]), chosen.dim_size(0),
        )
