"""Decoder attention over slots: self-attention with the cache write inside, cross-attention.

Caches hold every layer: keys [layer, slot, head, block, 64, 16], packed so that 16 scores come
out of one chain of multiply-adds, and values [layer, slot, head, time, 64]. A token names its row
(self-attention cache), its position there and its window (cross-attention cache); tokens of one
row stand together, in ascending positions. Queries arrive scaled by 1/8 = 64^-0.5.
"""

from std.math import exp
from std.sys import CompilationTarget, size_of

from .linear import AHEAD, LINE, SERIAL_WORK, fetch_ahead, larger
from .parallel import share

comptime F32 = DType.float32
comptime HEAD = 64
"""Size of one attention head in every Whisper."""
comptime LANES = 16
"""Keys per packed block."""
comptime KEY_BLOCK = HEAD * LANES
comptime Vector = SIMD[F32, LANES]
comptime MASKED = Float32(-1e30)
"""Score of a position that does not exist."""
comptime MANY_REGISTERS = CompilationTarget.has_avx512f()
"""Whether there are 32 vector registers of 16 lanes; elsewhere the sums of what follows take 16."""
comptime TOGETHER = 6 if MANY_REGISTERS else 3
"""Tokens of one window that attend together."""
comptime CHAINS = 4
"""Chains of multiply-adds that make a score: several hide the latency of each."""
comptime PHASES = 2 if MANY_REGISTERS else 1
"""Chains that mix the values of one lane: even and odd positions."""
comptime MAX_POSITIONS = 1504
"""1500 audio positions rounded up to whole blocks; text positions (448) are fewer."""


@always_inline
def scores_of[KV: DType, rows: Int](
    q: Pointer[Float32, _],
    stride: Int,
    keys: Pointer[Scalar[KV], _],
    block: Int,
    ahead: Int = AHEAD,
) -> Array[Vector, rows]:
    """Scores of q[rows, 64], `stride` apart, against the 16 keys of one block.

    What lies `ahead` bytes behind the block is fetched meanwhile.
    """
    var packed = keys.unsafe_offset(block * KEY_BLOCK)
    comptime AT_ONCE = CHAINS if MANY_REGISTERS or rows == 1 else 2
    var scores = Array[Vector, length=rows](fill=Vector(0))
    comptime for first in range(0, CHAINS, AT_ONCE):
        var sums = Array[Vector, length=AT_ONCE * rows](fill=Vector(0))
        comptime for d in range(HEAD):
            comptime chain = d % CHAINS - first
            comptime if 0 <= chain < AT_ONCE:
                comptime if d * LANES * size_of[Scalar[KV]]() % LINE == 0:
                    fetch_ahead(packed.unsafe_offset(d * LANES), ahead)
                var key = packed.unsafe_load[width=LANES](d * LANES).cast[F32]()
                comptime for r in range(rows):
                    var query = Vector(q[unsafe_offset=r * stride + d])
                    sums[AT_ONCE * r + chain] = key.fma(query, sums[AT_ONCE * r + chain])
        comptime for r in range(rows):
            comptime for chain in range(0, AT_ONCE, 2):
                scores[r] += sums[AT_ONCE * r + chain] + sums[AT_ONCE * r + chain + 1]
    return scores^


@always_inline
def mix_values[KV: DType, rows: Int, first: Int, width: Int](
    mixed: Pointer[mut=True, Float32, _],
    stride: Int,
    values: Pointer[Scalar[KV], _],
    scores: Pointer[Float32, _],
    scale: Array[Float32, rows],
    n: Int,
    ahead: Int,
):
    """Part of `attend`: `width` vectors of the head's 4, from `first` on."""
    var sums = Array[Vector, length=PHASES * rows * width](fill=Vector(0))

    @always_inline
    def add[phases: Int](t: Int) {mut sums, var values, var scores, var ahead}:
        comptime for phase in range(phases):
            var value = values.unsafe_offset((t + phase) * HEAD + first * LANES)
            comptime for i in range(width):
                comptime for line in range(0, LANES, LINE // size_of[Scalar[KV]]()):
                    fetch_ahead(value.unsafe_offset(i * LANES + line), ahead)
                var v = value.unsafe_load[width=LANES](i * LANES).cast[F32]()
                comptime for r in range(rows):
                    comptime j = (r * width + i) * PHASES + phase
                    var score = Vector(scores[unsafe_offset=r * MAX_POSITIONS + t + phase])
                    sums[j] = v.fma(score, sums[j])

    var whole = n - n % PHASES
    for t in range(0, whole, PHASES):
        add[PHASES](t)
    for t in range(whole, n):
        add[1](t)
    comptime for r in range(rows):
        comptime for i in range(width):
            comptime j = (r * width + i) * PHASES
            var sum = sums[j]
            comptime if PHASES == 2:
                sum += sums[j + 1]
            mixed.unsafe_store(r * stride + (first + i) * LANES, sum * scale[r])


@always_inline
def attend[KV: DType, rows: Int](
    mixed: Pointer[mut=True, Float32, _],
    q: Pointer[Float32, _],
    stride: Int,
    keys: Pointer[Scalar[KV], _],
    values: Pointer[Scalar[KV], _],
    scores: Pointer[mut=True, Float32, _],
    n: Int,
    key_ahead: Int = AHEAD,
    value_ahead: Int = AHEAD,
):
    """mixed[rows, 64] = softmax(q[rows, 64] · keysᵀ) · values over the first n positions of a head.

    Rows of q and of mixed are `stride` apart; scores has room for [rows, MAX_POSITIONS]. A row's
    sums do not depend on how many rows share the keys. What lies so many bytes behind the keys and
    the values is fetched into cache meanwhile.
    """
    var blocks = (n + LANES - 1) // LANES
    var highest = Array[Vector, length=rows](fill=Vector(MASKED))
    for block in range(blocks):
        var s = scores_of[KV, rows](q, stride, keys, block, key_ahead)
        comptime for r in range(rows):
            for lane in range(n - block * LANES, LANES):
                s[r][lane] = MASKED
            highest[r] = larger[LANES](highest[r], s[r])
            scores.unsafe_store(r * MAX_POSITIONS + block * LANES, s[r])
    var scale = Array[Float32, length=rows](fill=0)
    comptime for r in range(rows):
        var top = highest[r].reduce_max()
        var totals = Vector(0)
        for block in range(blocks):
            var at = r * MAX_POSITIONS + block * LANES
            var e = exp(scores.unsafe_load[width=LANES](at) - top)
            totals += e
            scores.unsafe_store(at, e)
        scale[r] = 1.0 / totals.reduce_add()
    comptime if rows == 1:
        mix_values[KV, rows, 0, 4](mixed, stride, values, scores, scale, n, value_ahead)
    else:
        mix_values[KV, rows, 0, 2](mixed, stride, values, scores, scale, n, value_ahead)
        mix_values[KV, rows, 2, 2](mixed, stride, values, scores, scale, n, value_ahead)


@always_inline
def runs_of(ids: Pointer[Int32, _], n: Int, longest: Int) -> List[Int]:
    """Where runs of at most `longest` equal neighbours begin in ids [n]; then n."""
    var starts = List[Int]()
    var begin = 0
    for i in range(n):
        if i == 0 or ids[unsafe_offset=i] != ids[unsafe_offset=i - 1] or i - begin == longest:
            starts.append(i)
            begin = i
    starts.append(n)
    return starts^


@always_inline
def write_key[KV: DType](keys: Pointer[mut=True, Scalar[KV], _], k: Pointer[Float32, _], t: Int):
    """Put k[64] at position t of one head's packed keys."""
    var packed = keys.unsafe_offset((t // LANES) * KEY_BLOCK + t % LANES)
    for d in range(HEAD):
        packed[unsafe_offset=d * LANES] = k[unsafe_offset=d].cast[KV]()


@always_inline
def write_value[KV: DType](values: Pointer[mut=True, Scalar[KV], _], v: Pointer[Float32, _], t: Int):
    """Put v[64] at position t of one head's values."""
    comptime for i in range(4):
        values.unsafe_store(t * HEAD + i * LANES, v.unsafe_load[width=LANES](i * LANES).cast[KV]())


@fieldwise_init
struct CacheShape(Copyable, ImplicitlyCopyable, Movable):
    """One layer of a pair of caches: elements of a slot's head in each, and the first slot's index.

    `first`: how many slots the layers before it hold.
    """

    var heads: Int
    var key_size: Int
    var value_size: Int
    var first: Int


@always_inline
def self_attend_run[KV: DType](
    mixed: Pointer[mut=True, Float32, _],
    keys: Pointer[mut=True, Scalar[KV], _],
    values: Pointer[mut=True, Scalar[KV], _],
    qkv: Pointer[Float32, _],
    rows: Pointer[Int32, _],
    positions: Pointer[Int32, _],
    starts: Pointer[Int, _],
    item: Int,
    following: Int,
    cache: CacheShape,
):
    """One head of one run of tokens of the same row, of qkv[n, 3 * state].

    Their keys and values are written into the row, and each attends up to itself: a run is causal
    in itself and touches nothing else. `starts` [runs + 1] is where the runs begin; `item` counts
    runs * heads. What the item `following` reads is fetched meanwhile: a head's keys are so few
    that what a CPU fetches by itself comes late.
    """
    var state = cache.heads * HEAD
    var head = item % cache.heads
    var begin = starts[unsafe_offset=item // cache.heads]
    var end = starts[unsafe_offset=item // cache.heads + 1]
    var slot = (cache.first + Int(rows[unsafe_offset=begin])) * cache.heads + head
    var row_after = rows[unsafe_offset=starts[unsafe_offset=following // cache.heads]]
    var slot_after = (cache.first + Int(row_after)) * cache.heads + following % cache.heads
    var ahead = (slot_after - slot) * size_of[Scalar[KV]]()
    var head_keys = keys.unsafe_offset(slot * cache.key_size)
    var head_values = values.unsafe_offset(slot * cache.value_size)
    var scores = Array[Float32, length=MAX_POSITIONS](uninitialized=True)
    for i in range(begin, end):
        var q = qkv.unsafe_offset(i * 3 * state + head * HEAD)
        var position = Int(positions[unsafe_offset=i])
        write_key[KV](head_keys, q.unsafe_offset(state), position)
        write_value[KV](head_values, q.unsafe_offset(2 * state), position)
        attend[KV, 1](
            mixed.unsafe_offset(i * state + head * HEAD), q, state, head_keys, head_values,
            scores.unsafe_ptr(), position + 1, ahead * cache.key_size,
            ahead * cache.value_size,
        )


@always_inline
def self_attend[KV: DType](
    mixed: Pointer[mut=True, Float32, _],
    keys: Pointer[mut=True, Scalar[KV], _],
    values: Pointer[mut=True, Scalar[KV], _],
    qkv: Pointer[Float32, _],
    rows: Pointer[Int32, _],
    positions: Pointer[Int32, _],
    n: Int,
    cache: CacheShape,
) raises:
    """Write n tokens' keys and values of qkv[n, 3 * state] into their rows, attend up to each."""
    var starts = runs_of(rows, n, n)
    var start_ptr = starts.unsafe_ptr()
    var items = (len(starts) - 1) * cache.heads

    def head_of_run(item: Int) {var items, var mixed, var keys, var values, var qkv, var rows, var positions, var start_ptr, var cache}:
        self_attend_run[KV](
            mixed, keys, values, qkv, rows, positions, start_ptr, item, min(item + 1, items - 1), cache
        )

    var seen = 0
    for i in range(n):
        seen += Int(positions[unsafe_offset=i]) + 1
    var work = 2 * seen * cache.heads * HEAD
    share(head_of_run, items, serial=work < SERIAL_WORK)
    _ = starts^


@always_inline
def cross_attend[KV: DType](
    mixed: Pointer[mut=True, Float32, _],
    keys: Pointer[Scalar[KV], _],
    values: Pointer[Scalar[KV], _],
    q: Pointer[Float32, _],
    windows: Pointer[Int32, _],
    n: Int,
    length: Int,
    cache: CacheShape,
) raises:
    """Attend with q[n, state] to the `length` positions of each token's window.

    Neighbouring tokens of one window (a prompt, a beam) share the reading of its keys and values.
    """
    var heads = cache.heads
    var key_size = cache.key_size
    var value_size = cache.value_size
    var first = cache.first
    var state = heads * HEAD
    var starts = runs_of(windows, n, TOGETHER)
    var runs = len(starts) - 1
    var start_ptr = starts.unsafe_ptr()

    def head_of_run(item: Int) {var runs, var first, var heads, var state, var length, var key_size, var value_size, var mixed, var keys, var values, var q, var windows, var start_ptr}:
        # Runs vary fastest: those of one window find its keys still in cache.
        var head = item // runs
        var i = start_ptr[unsafe_offset=item % runs]
        var end = start_ptr[unsafe_offset=item % runs + 1]
        var slot = (first + Int(windows[unsafe_offset=i])) * heads + head
        var head_keys = keys.unsafe_offset(slot * key_size)
        var head_values = values.unsafe_offset(slot * value_size)
        var scores = Array[Float32, length=TOGETHER * MAX_POSITIONS](uninitialized=True)
        var own = i * state + head * HEAD
        comptime for tokens in range(1, TOGETHER + 1):
            if end - i == tokens:
                attend[KV, tokens](
                    mixed.unsafe_offset(own), q.unsafe_offset(own), state, head_keys,
                    head_values, scores.unsafe_ptr(), length,
                )

    share(head_of_run, runs * heads)
    _ = starts^
