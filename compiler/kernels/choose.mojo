"""Choosing the next token: suppression, timestamp rules, argmax and its log-probability."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import exp

from .gpu import choose_gpu
from .parallel import share
from .rules import (
    LAST,
    LAST_TIMESTAMP,
    LOWEST,
    MAX_INITIAL,
    N_SAMPLED,
    PENULTIMATE,
    STATE_SIZE,
    WITH_TIMESTAMPS,
    Best,
    allowed_ids,
    decide,
)

comptime F32 = DType.float32
comptime LANES = 16
comptime Vector = SIMD[F32, LANES]


@always_inline
def best_of(
    logits: Pointer[Float32, _], suppress: Pointer[Float32, _], first: Int, last: Int
) -> Best:
    """Scan ids [first, last): the first id with the highest logit + suppress."""
    var lanes = Vector(LOWEST)
    var i = first
    while i + LANES <= last:
        lanes = max(lanes, logits.unsafe_load[width=LANES](i) + suppress.unsafe_load[width=LANES](i))
        i += LANES
    var top = lanes.reduce_max()
    while i < last:
        top = max(top, logits[unsafe_offset=i] + suppress[unsafe_offset=i])
        i += 1
    if top <= LOWEST:
        return Best(-1, LOWEST, 0)

    var sums = Vector(0)
    i = first
    while i + LANES <= last:
        sums += exp(logits.unsafe_load[width=LANES](i) + suppress.unsafe_load[width=LANES](i) - top)
        i += LANES
    var total = sums.reduce_add()
    while i < last:
        total += exp(logits[unsafe_offset=i] + suppress[unsafe_offset=i] - top)
        i += 1

    var id = first
    while logits[unsafe_offset=id] + suppress[unsafe_offset=id] != top:
        id += 1
    return Best(id, top, total)


@extensibility.register("mwc_choose")
struct Choose:
    """The greedy choice of each row under the rules.

    Inputs: logits f32 [n, n_vocab]; suppress f32 [2, n_vocab] of 0 and -inf (row 1 holds for a
    row's first sampled token, row 0 after it); states int32 [n, 6]; ids int32 [2] = (eot,
    timestamp_begin). Outputs: tokens int32 [n], logprobs f32 [n], after all filters.
    """

    @staticmethod
    def execute[target: StaticString](
        tokens: OutputTensor[dtype=DType.int32, rank=1, ...],
        logprobs: OutputTensor[dtype=F32, rank=1, ...],
        logits: InputTensor[dtype=F32, rank=2, ...],
        suppress: InputTensor[dtype=F32, rank=2, ...],
        states: InputTensor[dtype=DType.int32, rank=2, ...],
        ids: InputTensor[dtype=DType.int32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime if target == "gpu":
            choose_gpu(tokens, logprobs, logits, suppress, states, ids, ctx)
            return
        var vocab = logits.dim_size(1)
        var eot = Int(ids.unsafe_ptr()[unsafe_offset=0])
        var begin = Int(ids.unsafe_ptr()[unsafe_offset=1])
        var logit_ptr = logits.unsafe_ptr()
        var suppress_ptr = suppress.unsafe_ptr()
        var state_ptr = states.unsafe_ptr()
        var token_ptr = tokens.unsafe_ptr()
        var logprob_ptr = logprobs.unsafe_ptr()

        def row(r: Int) {var vocab, var eot, var begin, var logit_ptr, var suppress_ptr, var state_ptr, var token_ptr, var logprob_ptr}:
            var state = state_ptr.unsafe_offset(r * STATE_SIZE)
            var sampled = Int(state[unsafe_offset=N_SAMPLED])
            var with_timestamps = state[unsafe_offset=WITH_TIMESTAMPS] != 0
            var allowed = allowed_ids(
                Int(state[unsafe_offset=LAST]),
                Int(state[unsafe_offset=PENULTIMATE]),
                Int(state[unsafe_offset=LAST_TIMESTAMP]),
                sampled,
                with_timestamps,
                Int(state[unsafe_offset=MAX_INITIAL]),
                eot, begin, vocab,
            )
            var scores = logit_ptr.unsafe_offset(r * vocab)
            var mask = suppress_ptr.unsafe_offset(vocab if sampled == 0 else 0)
            var text = best_of(scores, mask, allowed.text_from, begin)
            var time = best_of(scores, mask, allowed.time_from, allowed.time_to)
            var choice = decide(text, time, with_timestamps, eot)
            token_ptr[unsafe_offset=r] = Int32(choice[0])
            logprob_ptr[unsafe_offset=r] = choice[1]

        share(row, logits.dim_size(0))
