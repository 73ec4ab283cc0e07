"""Choosing the next tokens on GPUs: one block per row; see choose.mojo for what and rules.mojo."""

from extensibility import InputTensor, OutputTensor
from max.gpu import barrier, block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.memory import AddressSpace
from std.math import exp
from std.memory import stack_allocation
from std.utils.index import IndexList

from .rules import (
    LAST,
    LAST_TIMESTAMP,
    LOWEST,
    MAX_INITIAL,
    N_SAMPLED,
    PENULTIMATE,
    WITH_TIMESTAMPS,
    Best,
    allowed_ids,
    judge,
)

comptime F32 = DType.float32
comptime I32 = DType.int32
comptime THREADS = 256


@always_inline
def score(
    logits: InputTensor[dtype=F32, rank=2, ...],
    suppress: InputTensor[dtype=F32, rank=2, ...],
    row: Int,
    mask: Int,
    id: Int,
) -> Float32:
    """One masked logit."""
    var value = logits.load[1](IndexList[2](row, id))
    return Float32(value + suppress.load[1](IndexList[2](mask, id)))


@always_inline
def block_sum(value: Float32) -> Float32:
    """The sum over the block's threads, in their order, for every thread."""
    var parts = stack_allocation[THREADS, Float32, address_space=AddressSpace.SHARED]()
    parts[unsafe_offset=Int(thread_idx.x)] = value
    barrier()
    var total = Float32(0)
    for other in range(THREADS):
        total += parts[unsafe_offset=other]
    barrier()
    return total


@always_inline
def block_best(value: Float32, id: Int) -> Best:
    """The highest value over the block's threads, lowest id first, for every thread."""
    var tid = Int(thread_idx.x)
    var values = stack_allocation[THREADS, Float32, address_space=AddressSpace.SHARED]()
    var ids = stack_allocation[THREADS, Int32, address_space=AddressSpace.SHARED]()
    values[unsafe_offset=tid] = value
    ids[unsafe_offset=tid] = Int32(id)
    barrier()
    var best = Best(-1, LOWEST, 0)
    for other in range(THREADS):
        var other_id = Int(ids[unsafe_offset=other])
        var other_value = values[unsafe_offset=other]
        if other_id >= 0 and (
            best.id < 0
            or other_value > best.logit
            or (other_value == best.logit and other_id < best.id)
        ):
            best.id = other_id
            best.logit = other_value
    barrier()
    return best^


@always_inline
def best_after(
    logits: InputTensor[dtype=F32, rank=2, ...],
    suppress: InputTensor[dtype=F32, rank=2, ...],
    row: Int,
    mask: Int,
    first: Int,
    last: Int,
    previous: Best,
) -> Best:
    """The best id of [first, last) that comes after `previous` in order of value, then id."""
    var value = LOWEST
    var id = -1
    for i in range(first + Int(thread_idx.x), last, THREADS):
        var candidate = score(logits, suppress, row, mask, i)
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
def block_mass(
    logits: InputTensor[dtype=F32, rank=2, ...],
    suppress: InputTensor[dtype=F32, rank=2, ...],
    row: Int,
    mask: Int,
    first: Int,
    last: Int,
    top: Float32,
    scale: Float32,
) -> Float32:
    """Sum of exp((score - top) * scale) over ids [first, last), for every thread."""
    var total = Float32(0)
    for i in range(first + Int(thread_idx.x), last, THREADS):
        total += exp((score(logits, suppress, row, mask, i) - top) * scale)
    return block_sum(total)


@always_inline
def find_mass_block(
    logits: InputTensor[dtype=F32, rank=2, ...],
    suppress: InputTensor[dtype=F32, rank=2, ...],
    row: Int,
    mask: Int,
    first: Int,
    last: Int,
    top: Float32,
    scale: Float32,
    wanted: Float32,
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
        part += exp((score(logits, suppress, row, mask, i) - top) * scale)
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
            left -= exp((score(logits, suppress, row, mask, i) - top) * scale)
            if left < 0:
                id = i
                break
    return block_best(Float32(0), id).id


def choose_gpu(
    tokens: OutputTensor[dtype=I32, rank=2, ...],
    logprobs: OutputTensor[dtype=F32, rank=2, ...],
    logits: InputTensor[dtype=F32, rank=2, ...],
    suppress: InputTensor[dtype=F32, rank=2, ...],
    states: InputTensor[dtype=I32, rank=2, ...],
    temperatures: InputTensor[dtype=F32, rank=1, ...],
    uniforms: InputTensor[dtype=F32, rank=1, ...],
    ids: InputTensor[dtype=I32, rank=1, ...],
    ctx: DeviceContext,
) raises:
    """Launch one block per row."""

    @parameter
    def row(n_vocab: Int32, n_candidates: Int32):
        var r = Int(block_idx.x)
        var k = Int(n_candidates)
        var is_first = Int(thread_idx.x) == 0
        var eot = Int(ids.load[1](IndexList[1](0)))
        var begin = Int(ids.load[1](IndexList[1](1)))
        var sampled = Int(states.load[1](IndexList[2](r, N_SAMPLED)))
        var with_timestamps = Int(states.load[1](IndexList[2](r, WITH_TIMESTAMPS))) != 0
        var allowed = allowed_ids(
            Int(states.load[1](IndexList[2](r, LAST))),
            Int(states.load[1](IndexList[2](r, PENULTIMATE))),
            Int(states.load[1](IndexList[2](r, LAST_TIMESTAMP))),
            sampled,
            with_timestamps,
            Int(states.load[1](IndexList[2](r, MAX_INITIAL))),
            eot, begin, Int(n_vocab),
        )
        var mask = 1 if sampled == 0 else 0
        var a = allowed.text_from
        var b = allowed.time_from
        var c = allowed.time_to
        var none = Best(-1, LOWEST, 0)
        var text = best_after(logits, suppress, r, mask, a, begin, none)
        var time = best_after(logits, suppress, r, mask, b, c, none)
        if text.exists():
            text.total = block_mass(logits, suppress, r, mask, a, begin, text.logit, 1.0)
        if time.exists():
            time.total = block_mass(logits, suppress, r, mask, b, c, time.logit, 1.0)
        var verdict = judge(text, time, with_timestamps)
        if not verdict.text:
            text = none.copy()
            a = begin
        if not verdict.time:
            time = none.copy()
            c = b

        var count = 0
        var temperature = Float32(temperatures.load[1](IndexList[1](r)))
        if temperature > 0:
            var top = max(text.logit, time.logit)
            var scale = 1.0 / temperature
            var text_mass = block_mass(logits, suppress, r, mask, a, begin, top, scale)
            var time_mass = block_mass(logits, suppress, r, mask, b, c, top, scale)
            var wanted = Float32(uniforms.load[1](IndexList[1](r))) * (text_mass + time_mass)
            var id = find_mass_block(logits, suppress, r, mask, a, begin, top, scale, wanted)
            if id < 0:
                wanted = max(wanted - text_mass, Float32(0))
                id = find_mass_block(logits, suppress, r, mask, b, c, top, scale, wanted)
            if id < 0:
                id = text.id if text.exists() else time.id
            if id >= 0:
                count = 1
                if is_first:
                    var value = score(logits, suppress, r, mask, id) - verdict.log_total
                    tokens.store[1](IndexList[2](r, 0), Int32(id))
                    logprobs.store[1](IndexList[2](r, 0), value)
        else:
            while count < k and (text.exists() or time.exists()):
                var takes_text = text.exists() and (
                    not time.exists() or text.logit >= time.logit
                )
                var best = text.copy() if takes_text else time.copy()
                if is_first:
                    tokens.store[1](IndexList[2](r, count), Int32(best.id))
                    logprobs.store[1](IndexList[2](r, count), best.logit - verdict.log_total)
                count += 1
                if count < k:
                    if takes_text:
                        text = best_after(logits, suppress, r, mask, a, begin, best)
                    else:
                        time = best_after(logits, suppress, r, mask, b, c, best)
        if is_first:
            for i in range(count, k):
                tokens.store[1](IndexList[2](r, i), Int32(eot))
                logprobs.store[1](IndexList[2](r, i), LOWEST)

    ctx.enqueue_function[row](
        Int32(logits.dim_size(1)), Int32(tokens.dim_size(1)),
        grid_dim=logits.dim_size(0), block_dim=THREADS,
    )
