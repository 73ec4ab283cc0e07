"""How a block of a GPU reads one head's keys and values, 16 positions at a time, and its softmax.

attention.mojo has the caches' layout: the keys of 16 positions lie together axis by axis, the values
position by position, so each is a run of memory that a warp reads whole.
"""

from max.gpu import WARP_SIZE, barrier, thread_idx
from max.gpu.memory import AddressSpace
from max.gpu.primitives import warp
from std.math import exp
from std.memory import stack_allocation
from std.sys import size_of

comptime F32 = DType.float32
comptime HEAD = 64
comptime KEYS = 16
"""Positions whose keys lie together."""
comptime WARPS = 4
comptime THREADS = WARPS * WARP_SIZE
"""Of a block."""


@always_inline
def sum_of_lines[width: Int, nearest: Int](var sums: SIMD[F32, width], lane: Int) -> Float32:
    """Lanes hold `width` partial sums of keys; return the whole sum of one of them.

    Each round, two lanes half as far apart as before, `nearest` in the last, give each other one
    half of what they hold: the rounds' bits of a lane, highest first, make the number of the key
    that it ends with.
    """
    comptime if width == 1:
        return sums[0]
    else:
        comptime half = width // 2
        comptime distance = nearest * half
        var upper = lane & distance != 0
        var low = sums.slice[half, offset=0]()
        var high = sums.slice[half, offset=half]()
        var kept = high if upper else low
        var given = low if upper else high
        comptime for e in range(half):
            kept[e] += warp.shuffle_xor(given[e], UInt32(distance))
        return sum_of_lines[half, nearest](kept, lane)


@always_inline
def sum_over[distance: Int, lanes: Int](value: Float32) -> Float32:
    """The sum over `lanes` lanes, a power of two, that are `distance` apart; each of them gets it."""
    comptime if lanes == 1:
        return value
    else:
        var sum = value + warp.shuffle_xor(value, UInt32(distance))
        return sum_over[2 * distance, lanes // 2](sum)


struct Head[KV: DType]:
    """How a warp reads 16 positions of one head: in READS reads, each lane WIDTH values of one.

    In read r of keys a lane has axis r * (WARP_SIZE / LINES) + lane / LINES of WIDTH positions; in
    one of values, WIDTH axes of position r * (WARP_SIZE / ACROSS) + lane / ACROSS.
    """

    comptime WIDTH = 16 // size_of[Scalar[Self.KV]]()
    comptime READS = KEYS * HEAD // (WARP_SIZE * Self.WIDTH)
    comptime LINES = KEYS // Self.WIDTH
    comptime ACROSS = HEAD // Self.WIDTH
    comptime SHARING = WARP_SIZE // (Self.LINES * Self.WIDTH)
    """Lanes that end with parts of the same score."""
    comptime Taken = SIMD[Self.KV, Self.WIDTH]
    comptime Block = Array[Self.Taken, length=Self.READS]
    comptime Query = Array[Float32, length=Self.READS]

    @staticmethod
    @always_inline
    def query[ACT: DType, //](q: Pointer[Scalar[ACT], ImmutAnyOrigin], lane: Int) -> Self.Query:
        """What a lane multiplies the keys that it reads with."""
        var own = Self.Query(fill=0)
        comptime for r in range(Self.READS):
            var axis = r * (WARP_SIZE // Self.LINES) + lane // Self.LINES
            own[r] = q[unsafe_offset=axis].cast[F32]()
        return own^

    @staticmethod
    @always_inline
    def keys(source: Pointer[Scalar[Self.KV], _], lane: Int) -> Self.Block:
        """The keys of 16 positions, which lie together from `source` on.

        Where the kernel writes some of them itself, `source` has to be mutable: of what is not, a
        GPU may have an older copy.
        """
        var read = Self.Block(fill=Self.Taken(0))
        comptime for r in range(Self.READS):
            read[r] = source.unsafe_load[width=Self.WIDTH, alignment=16](
                (r * WARP_SIZE + lane) * Self.WIDTH
            )
        return read^

    @staticmethod
    @always_inline
    def values(
        source: Pointer[Scalar[Self.KV], _], held: Int, lane: Int
    ) -> Self.Block:
        """The values of 16 positions from `source` on, of which `held` are there; as `keys`."""
        var read = Self.Block(fill=Self.Taken(0))
        comptime for r in range(Self.READS):
            if r * (WARP_SIZE // Self.ACROSS) + lane // Self.ACROSS < held:
                read[r] = source.unsafe_load[width=Self.WIDTH, alignment=16](
                    (r * WARP_SIZE + lane) * Self.WIDTH
                )
        return read^

    @staticmethod
    @always_inline
    def score(taken: Self.Block, query: Self.Query, lane: Int) -> Float32:
        """The query times the key of the position `position(lane)` of the 16."""
        var sums = SIMD[F32, Self.WIDTH](0)
        comptime for r in range(Self.READS):
            sums = taken[r].cast[F32]().fma(SIMD[F32, Self.WIDTH](query[r]), sums)
        var sum = sum_of_lines[Self.WIDTH, Self.SHARING * Self.LINES](sums, lane)
        return sum_over[Self.LINES, Self.SHARING](sum)

    @staticmethod
    @always_inline
    def position(lane: Int) -> Int:
        """Which of 16 positions a lane has the score of; SHARING lanes have each."""
        return lane % Self.LINES * Self.WIDTH + lane // (Self.SHARING * Self.LINES)

    @staticmethod
    @always_inline
    def mix(
        taken: Self.Block,
        weights: Pointer[Float32, _, address_space=AddressSpace.SHARED],
        mut sums: SIMD[F32, Self.WIDTH],
        lane: Int,
    ):
        """Add 16 positions' values, each times its weight. Values that are not there are zeros."""
        comptime for r in range(Self.READS):
            var weight = weights[
                unsafe_offset=r * (WARP_SIZE // Self.ACROSS) + lane // Self.ACROSS
            ]
            sums = taken[r].cast[F32]().fma(SIMD[F32, Self.WIDTH](weight), sums)

    @staticmethod
    @always_inline
    def gather(sums: SIMD[F32, Self.WIDTH], lane: Int, own_warp: Int) -> Float32:
        """All warps' sums over positions, of the axis of each of the first HEAD threads."""
        var mixed = stack_allocation[
            WARPS * HEAD, Float32, address_space=AddressSpace.SHARED
        ]()
        comptime for e in range(Self.WIDTH):
            var sum = sum_over[Self.ACROSS, WARP_SIZE // Self.ACROSS](sums[e])
            if lane < Self.ACROSS:
                mixed[unsafe_offset=own_warp * HEAD + lane * Self.WIDTH + e] = sum
        barrier()
        var total = Float32(0)
        var axis = (own_warp * WARP_SIZE + lane) % HEAD
        comptime for other in range(WARPS):
            total += mixed[unsafe_offset=other * HEAD + axis]
        return total


@fieldwise_init
struct Softmax(Copyable, Movable):
    """The highest of a block's scores, and the sum of exp(score - highest)."""

    var highest: Float32
    var total: Float32


@always_inline
def softmax_of(
    weights: Pointer[mut=True, Float32, _, address_space=AddressSpace.SHARED],
    count: Int,
    padded: Int,
    var highest: Float32,
) -> Softmax:
    """Turn `count` scores into exp(score - highest), the rest up to `padded` into zeros.

    `highest` is the highest that a thread has seen; every thread gets the result.
    """
    var shared = stack_allocation[2 * WARPS, Float32, address_space=AddressSpace.SHARED]()
    var tid = Int(thread_idx.x)
    highest = warp.max(highest)
    if tid % WARP_SIZE == 0:
        shared[unsafe_offset=tid // WARP_SIZE] = highest
    barrier()
    comptime for other in range(WARPS):
        highest = max(highest, shared[unsafe_offset=other])
    var total = Float32(0)
    for t in range(tid, padded, THREADS):
        var weight = exp(weights[unsafe_offset=t] - highest) if t < count else Float32(0)
        weights[unsafe_offset=t] = weight
        total += weight
    total = warp.sum(total)
    if tid % WARP_SIZE == 0:
        shared[unsafe_offset=WARPS + tid // WARP_SIZE] = total
    barrier()
    total = 0
    comptime for other in range(WARPS):
        total += shared[unsafe_offset=WARPS + other]
    return Softmax(highest, total)
