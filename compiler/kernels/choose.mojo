"""Choosing the next token: suppression, timestamp rules, argmax and its log-probability.

The rules are openai/whisper's `SuppressTokens`, `SuppressBlank` and `ApplyTimestampRules`
(decoding.py), worked out as ranges of allowed ids instead of masks: text [text_from, timestamps)
and timestamps [time_from, time_to). `mwc.runtime.rules` holds the same rules in numpy.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import exp, log

from .parallel import share

comptime F32 = DType.float32
comptime LANES = 16
comptime Vector = SIMD[F32, LANES]
comptime LOWEST = Float32(-1e30)
"""Anything below is a masked logit."""

# Columns of a row's rule state, as mwc.runtime.rules.rule_state writes them.
comptime LAST = 0
comptime PENULTIMATE = 1
comptime LAST_TIMESTAMP = 2
comptime N_SAMPLED = 3
comptime WITH_TIMESTAMPS = 4
comptime MAX_INITIAL = 5
comptime STATE_SIZE = 6


@fieldwise_init
struct Best(Copyable, Movable):
    """The best of a range of ids: where, its logit, and the sum of exp(logit - best)."""

    var id: Int
    var logit: Float32
    var total: Float32

    def exists(self) -> Bool:
        """Whether any id of the range is allowed."""
        return self.id >= 0

    def log_total(self) -> Float32:
        """logsumexp of the range."""
        return self.logit + log(self.total)


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
            var text_from = 0
            var time_from = begin
            var time_to = vocab
            if state[unsafe_offset=WITH_TIMESTAMPS] != 0:
                var after_time = sampled >= 1 and Int(state[unsafe_offset=LAST]) >= begin
                var after_pair = after_time and (
                    sampled < 2 or Int(state[unsafe_offset=PENULTIMATE]) >= begin
                )
                if after_pair:
                    time_to = begin
                elif after_time:
                    text_from = eot
                var last_time = Int(state[unsafe_offset=LAST_TIMESTAMP])
                if last_time >= 0:
                    # A segment may end where it began only by closing a pair; else time moves on.
                    time_from = last_time if after_time and not after_pair else last_time + 1
                if sampled == 0:
                    text_from = begin
                    var max_initial = Int(state[unsafe_offset=MAX_INITIAL])
                    if max_initial >= 0:
                        time_to = min(time_to, begin + max_initial + 1)

            var scores = logit_ptr.unsafe_offset(r * vocab)
            var mask = suppress_ptr.unsafe_offset(vocab if sampled == 0 else 0)
            var text = best_of(scores, mask, text_from, begin)
            var time = best_of(scores, mask, time_from, max(time_from, time_to))
            var choice = text.copy()
            var log_total = text.log_total() if text.exists() else LOWEST
            if time.exists():
                var log_time = time.log_total()
                var by_rule = state[unsafe_offset=WITH_TIMESTAMPS] != 0 and log_time > text.logit
                if by_rule:
                    log_total = log_time
                else:
                    var top = max(log_total, log_time)
                    log_total = top + log(exp(log_total - top) + exp(log_time - top))
                if by_rule or time.logit > text.logit:
                    choice = time.copy()
            if not choice.exists():
                # Everything is suppressed: end the transcript.
                choice = Best(eot, LOWEST, 1)
                log_total = 0
            token_ptr[unsafe_offset=r] = Int32(choice.id)
            logprob_ptr[unsafe_offset=r] = choice.logit - log_total

        share(row, logits.dim_size(0))
