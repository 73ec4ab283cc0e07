"""Choosing the next tokens on GPUs; see choose.mojo for what and rules.mojo for the rules.

Two launches: first many blocks survey a part of the vocabulary each, then a block for each row puts
together what they found, and chooses. Only for several candidates or a sample does that block read
logits again.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu import WARP_SIZE, block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.primitives import warp
from max.gpu.primitives.grid_controls import launch_dependent_grids, wait_on_dependent_grids
from std.math import exp

from .choose_block_gpu import (
    THREADS,
    Scores,
    best_after,
    block_mass,
    find_mass_block,
    warp_best,
)
from .early_launch_gpu import early_launch
from .rules import (
    LAST,
    LAST_TIMESTAMP,
    LOWEST,
    MAX_INITIAL,
    N_SAMPLED,
    PENULTIMATE,
    STATE_SIZE,
    WITH_TIMESTAMPS,
    Allowed,
    Best,
    allowed_ids,
    judge,
)

comptime F32 = DType.float32
comptime I32 = DType.int32
comptime PARTS = 32
"""Parts of the vocabulary: a lane of a warp has one when they are put together."""
comptime FOUND = 6
"""Of a part: the best text's id, its logit and the sum of exp(logit - best); the same of time."""

comptime Floats = Pointer[Float32, ImmutAnyOrigin]
comptime Ints = Pointer[Int32, ImmutAnyOrigin]


@always_inline
def scores_of(
    logits: Floats, suppress: Floats, states: Ints, row: Int, n_vocab: Int
) -> Scores[ImmutAnyOrigin, ImmutAnyOrigin]:
    """A row's: before its first token a second mask applies."""
    var mask = 1 if states[unsafe_offset=row * STATE_SIZE + N_SAMPLED] == 0 else 0
    return Scores(
        logits.unsafe_offset(row * n_vocab), suppress.unsafe_offset(mask * n_vocab)
    )


@always_inline
def allowed_of(states: Ints, row: Int, eot: Int, begin: Int, n_vocab: Int) -> Allowed:
    """What a row's rule state allows."""
    var state = states.unsafe_offset(row * STATE_SIZE)
    return allowed_ids(
        Int(state[unsafe_offset=LAST]),
        Int(state[unsafe_offset=PENULTIMATE]),
        Int(state[unsafe_offset=LAST_TIMESTAMP]),
        Int(state[unsafe_offset=N_SAMPLED]),
        state[unsafe_offset=WITH_TIMESTAMPS] != 0,
        Int(state[unsafe_offset=MAX_INITIAL]),
        eot, begin, n_vocab,
    )


def survey_kernel(
    found: Pointer[Float32, MutAnyOrigin],
    logits: Floats,
    suppress: Floats,
    states: Ints,
    ids: Ints,
    n_vocab: Int32,
):
    """Block (part, row): the best text and the best timestamp of a part that the row may take."""
    launch_dependent_grids()
    wait_on_dependent_grids()
    var n = Int(n_vocab)
    var row = Int(block_idx.y)
    var begin = Int(ids[unsafe_offset=1])
    var allowed = allowed_of(states, row, Int(ids[]), begin, n)
    var scores = scores_of(logits, suppress, states, row, n)
    var size = (n + PARTS - 1) // PARTS
    var first = Int(block_idx.x) * size
    var last = min(first + size, n)
    var own = found.unsafe_offset((row * PARTS + Int(block_idx.x)) * FOUND)
    comptime for kind in range(2):
        var a = max(first, allowed.time_from if kind == 1 else allowed.text_from)
        var b = min(last, allowed.time_to if kind == 1 else begin)
        var best = Best(-1, LOWEST, 0)
        if a < b:
            best = best_after(scores, a, b, best)
            if best.exists():
                best.total = block_mass(scores, a, b, best.logit, 1.0)
        if Int(thread_idx.x) == 0:
            own[unsafe_offset=kind * 3] = Float32(best.id)
            own[unsafe_offset=kind * 3 + 1] = best.logit
            own[unsafe_offset=kind * 3 + 2] = best.total


@always_inline
def put_together(found: Floats) -> Best:
    """The best of all parts and the sum of all; a lane reads one part, if there is one for it."""
    var lane = Int(thread_idx.x) % WARP_SIZE
    var own = found.unsafe_offset(min(lane, PARTS - 1) * FOUND)
    var value = own[unsafe_offset=1]
    var best = warp_best(value, Int(own[]))
    if best.exists():
        var part = own[unsafe_offset=2] * exp(value - best.logit)
        best.total = warp.sum(part if lane < PARTS else Float32(0))
    return best^


def pick_kernel(
    tokens: Pointer[Int32, MutAnyOrigin],
    logprobs: Pointer[Float32, MutAnyOrigin],
    found: Floats,
    logits: Floats,
    suppress: Floats,
    states: Ints,
    temperatures: Floats,
    uniforms: Floats,
    ids: Ints,
    n_vocab: Int32,
    n_candidates: Int32,
):
    """A block for each row: the choice, from what the parts' blocks found."""
    launch_dependent_grids()
    wait_on_dependent_grids()
    var n = Int(n_vocab)
    var k = Int(n_candidates)
    var r = Int(block_idx.x)
    var is_first = Int(thread_idx.x) == 0
    var eot = Int(ids[])
    var begin = Int(ids[unsafe_offset=1])
    var with_timestamps = states[unsafe_offset=r * STATE_SIZE + WITH_TIMESTAMPS] != 0
    var allowed = allowed_of(states, r, eot, begin, n)
    var scores = scores_of(logits, suppress, states, r, n)
    var text = put_together(found.unsafe_offset(r * PARTS * FOUND))
    var time = put_together(found.unsafe_offset(r * PARTS * FOUND + 3))
    var verdict = judge(text, time, with_timestamps)
    var a = allowed.text_from
    var b = allowed.time_from
    var c = allowed.time_to
    var none = Best(-1, LOWEST, 0)
    if not verdict.text:
        text = none.copy()
        a = begin
    if not verdict.time:
        time = none.copy()
        c = b

    var chosen = tokens.unsafe_offset(r * k)
    var probabilities = logprobs.unsafe_offset(r * k)
    var count = 0
    var temperature = temperatures[unsafe_offset=r]
    if temperature > 0:
        var top = max(text.logit, time.logit)
        var scale = 1.0 / temperature
        var text_mass = block_mass(scores, a, begin, top, scale)
        var time_mass = block_mass(scores, b, c, top, scale)
        var wanted = uniforms[unsafe_offset=r] * (text_mass + time_mass)
        var id = find_mass_block(scores, a, begin, top, scale, wanted)
        if id < 0:
            wanted = max(wanted - text_mass, Float32(0))
            id = find_mass_block(scores, b, c, top, scale, wanted)
        if id < 0:
            id = text.id if text.exists() else time.id
        if id >= 0:
            count = 1
            if is_first:
                chosen[] = Int32(id)
                probabilities[] = scores.at(id) - verdict.log_total
    else:
        while count < k and (text.exists() or time.exists()):
            var takes_text = text.exists() and (not time.exists() or text.logit >= time.logit)
            var best = text.copy() if takes_text else time.copy()
            if is_first:
                chosen[unsafe_offset=count] = Int32(best.id)
                probabilities[unsafe_offset=count] = best.logit - verdict.log_total
            count += 1
            if count < k:
                if takes_text:
                    text = best_after(scores, a, begin, best)
                else:
                    time = best_after(scores, b, c, best)
    if is_first:
        for i in range(count, k):
            chosen[unsafe_offset=i] = Int32(eot)
            probabilities[unsafe_offset=i] = LOWEST


@extensibility.register("mwc_gpu_choose")
struct GPUChoose:
    """As mwc_choose; `found` f32 [n, PARTS, FOUND] is memory to work with."""

    @staticmethod
    def execute[target: StaticString](
        tokens: OutputTensor[dtype=I32, rank=2, ...],
        logprobs: OutputTensor[dtype=F32, rank=2, ...],
        found: OutputTensor[dtype=F32, rank=3, ...],
        logits: InputTensor[dtype=F32, rank=2, ...],
        suppress: InputTensor[dtype=F32, rank=2, ...],
        states: InputTensor[dtype=I32, rank=2, ...],
        temperatures: InputTensor[dtype=F32, rank=1, ...],
        uniforms: InputTensor[dtype=F32, rank=1, ...],
        ids: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var n = logits.dim_size(0)
        var n_vocab = Int32(logits.dim_size(1))
        ctx.enqueue_function[survey_kernel](
            found.unsafe_ptr(), logits.unsafe_ptr(), suppress.unsafe_ptr(), states.unsafe_ptr(),
            ids.unsafe_ptr(), n_vocab,
            grid_dim=(PARTS, n), block_dim=THREADS, attributes=early_launch(),
        )
        ctx.enqueue_function[pick_kernel](
            tokens.unsafe_ptr(), logprobs.unsafe_ptr(), found.unsafe_ptr(), logits.unsafe_ptr(),
            suppress.unsafe_ptr(), states.unsafe_ptr(), temperatures.unsafe_ptr(),
            uniforms.unsafe_ptr(), ids.unsafe_ptr(), n_vocab, Int32(tokens.dim_size(1)),
            grid_dim=n, block_dim=THREADS, attributes=early_launch(),
        )
