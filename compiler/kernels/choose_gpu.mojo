"""Choosing the next tokens on GPUs; see choose.mojo for what and rules.mojo for the rules.

Two launches: first many blocks survey a part of the vocabulary each, then a block for each row puts
together what they found, and chooses. Only for several candidates or a sample does that block read
logits again.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu import WARP_SIZE, barrier, block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.memory import AddressSpace
from max.gpu.primitives import warp
from max.gpu.primitives.grid_controls import launch_dependent_grids, wait_on_dependent_grids
from std.math import exp
from std.memory import stack_allocation

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
comptime WARPS = 8
comptime THREADS = WARPS * WARP_SIZE
comptime ROUNDS = 5 if WARP_SIZE == 32 else 6
"""In which lanes meet all others of their warp, two by two."""
comptime PARTS = 32
"""Parts of the vocabulary: a lane of a warp has one when they are put together."""
comptime FOUND = 6
"""Of a part: the best text's id, its logit and the sum of exp(logit - best); the same of time."""

comptime Floats = Pointer[Float32, ImmutAnyOrigin]
comptime Ints = Pointer[Int32, ImmutAnyOrigin]


@fieldwise_init
struct Scores[logit_origin: Origin, mask_origin: Origin](Copyable, Movable):
    """One row's logits and the mask added to them."""

    var logits: Pointer[Float32, Self.logit_origin]
    var suppress: Pointer[Float32, Self.mask_origin]

    @always_inline
    def at(self, id: Int) -> Float32:
        """One masked logit."""
        return self.logits[unsafe_offset=id] + self.suppress[unsafe_offset=id]


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


@always_inline
def is_better(value: Float32, id: Int, other_value: Float32, other_id: Int) -> Bool:
    """Whether the first comes before the second: the higher value, then the lower id; -1 is none."""
    return id >= 0 and (
        other_id < 0 or value > other_value or (value == other_value and id < other_id)
    )


@always_inline
def warp_best(var value: Float32, var id: Int) -> Best:
    """The best of a warp's lanes, for every lane."""
    comptime for round in range(ROUNDS):
        comptime distance = WARP_SIZE >> (round + 1)
        var other_value = warp.shuffle_xor(value, UInt32(distance))
        var other_id = Int(warp.shuffle_xor(Int32(id), UInt32(distance)))
        if is_better(other_value, other_id, value, id):
            value = other_value
            id = other_id
    return Best(id, value, 0)


@always_inline
def block_best(value: Float32, id: Int) -> Best:
    """The best of a block's threads, for every thread."""
    var values = stack_allocation[WARPS, Float32, address_space=AddressSpace.SHARED]()
    var ids = stack_allocation[WARPS, Int32, address_space=AddressSpace.SHARED]()
    var best = warp_best(value, id)
    if Int(thread_idx.x) % WARP_SIZE == 0:
        values[unsafe_offset=Int(thread_idx.x) // WARP_SIZE] = best.logit
        ids[unsafe_offset=Int(thread_idx.x) // WARP_SIZE] = Int32(best.id)
    barrier()
    for other in range(WARPS):
        var other_value = values[unsafe_offset=other]
        var other_id = Int(ids[unsafe_offset=other])
        if is_better(other_value, other_id, best.logit, best.id):
            best.logit = other_value
            best.id = other_id
    barrier()
    return best^


@always_inline
def block_sum(value: Float32) -> Float32:
    """The sum over a block's threads, in a fixed order, for every thread."""
    var parts = stack_allocation[WARPS, Float32, address_space=AddressSpace.SHARED]()
    var sum = warp.sum(value)
    if Int(thread_idx.x) % WARP_SIZE == 0:
        parts[unsafe_offset=Int(thread_idx.x) // WARP_SIZE] = sum
    barrier()
    var total = Float32(0)
    for other in range(WARPS):
        total += parts[unsafe_offset=other]
    barrier()
    return total


@always_inline
def best_after(scores: Scores[_, _], first: Int, last: Int, previous: Best) -> Best:
    """The best id of [first, last) that comes after `previous` in order of value, then id."""
    var value = LOWEST
    var id = -1
    for i in range(first + Int(thread_idx.x), last, THREADS):
        var candidate = scores.at(i)
        var comes_after = (
            not previous.exists()
            or candidate < previous.logit
            or (candidate == previous.logit and i > previous.id)
        )
        if comes_after and candidate > value:
            value = candidate
            id = i
    return block_best(value, id)


@always_inline
def block_mass(scores: Scores[_, _], first: Int, last: Int, top: Float32, scale: Float32) -> Float32:
    """Sum of exp((score - top) * scale) over ids [first, last), for every thread."""
    var total = Float32(0)
    for i in range(first + Int(thread_idx.x), last, THREADS):
        total += exp((scores.at(i) - top) * scale)
    return block_sum(total)


@always_inline
def find_mass_block(
    scores: Scores[_, _], first: Int, last: Int, top: Float32, scale: Float32, wanted: Float32
) -> Int:
    """The id of [first, last) at which the running mass passes `wanted`, or -1.

    Each thread sums a run of ids; the one whose run passes `wanted` walks through it.
    """
    var tid = Int(thread_idx.x)
    var run = (last - first + THREADS - 1) // THREADS
    var begin = min(first + tid * run, last)
    var end = min(begin + run, last)
    var part = Float32(0)
    for i in range(begin, end):
        part += exp((scores.at(i) - top) * scale)
    var parts = stack_allocation[THREADS, Float32, address_space=AddressSpace.SHARED]()
    parts[unsafe_offset=tid] = part
    barrier()
    var before = Float32(0)
    for other in range(tid):
        before += parts[unsafe_offset=other]
    barrier()
    var id = -1
    if before <= wanted and before + part > wanted:
        var left = wanted - before
        id = end - 1
        for i in range(begin, end):
            left -= exp((scores.at(i) - top) * scale)
            if left < 0:
                id = i
                break
    return block_best(Float32(0), id).id


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
