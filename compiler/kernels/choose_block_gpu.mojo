"""What all threads of a GPU's block find out together about one row's logits."""

from max.gpu import WARP_SIZE, barrier, thread_idx
from max.gpu.memory import AddressSpace
from max.gpu.primitives import warp
from std.math import exp
from std.memory import stack_allocation

from .rules import LOWEST, Best

comptime WARPS = 8
comptime THREADS = WARPS * WARP_SIZE
comptime ROUNDS = 5 if WARP_SIZE == 32 else 6
"""In which lanes meet all others of their warp, two by two."""


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
