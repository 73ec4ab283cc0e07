"""Choosing the next tokens: suppression, timestamp rules, then the best, several, or a sample."""

import extensibility
from extensibility import InputTensor, OutputTensor
from std.math import exp, iota

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
    Allowed,
    Best,
    Verdict,
    allowed_ids,
    join,
    judge,
)

comptime F32 = DType.float32
comptime I32 = DType.int32
comptime LANES = 16
comptime Vector = SIMD[F32, LANES]


@fieldwise_init
struct Scores[logit_origin: Origin, mask_origin: Origin](Copyable, Movable):
    """One row's logits and the mask added to them."""

    var logits: Pointer[Float32, Self.logit_origin]
    var suppress: Pointer[Float32, Self.mask_origin]

    @always_inline
    def at(self, i: Int) -> Float32:
        """One masked logit."""
        return self.logits[unsafe_offset=i] + self.suppress[unsafe_offset=i]

    @always_inline
    def lanes(self, i: Int) -> Vector:
        """LANES masked logits."""
        var masks = self.suppress.unsafe_load[width=LANES](i)
        return self.logits.unsafe_load[width=LANES](i) + masks


@always_inline
def best_of(scores: Scores[_, _], first: Int, last: Int) -> Best:
    """Scan ids [first, last): the first id with the highest masked logit."""
    var best = Vector(LOWEST)
    var block = SIMD[I32, LANES](-1)
    var blocks = max(last - first, 0) // LANES
    for b in range(blocks):
        var here = scores.lanes(first + b * LANES)
        var higher = here.gt(best)
        best = higher.select(here, best)
        block = higher.select(SIMD[I32, LANES](Int32(b)), block)
    var top = best.reduce_max()
    var id = -1
    if top > LOWEST:
        var at = iota[I32, LANES](Int32(first)) + block * LANES
        id = Int(best.eq(top).select(at, SIMD[I32, LANES](Int32.MAX)).reduce_min())
    for i in range(first + blocks * LANES, last):
        if scores.at(i) > top:
            top = scores.at(i)
            id = i
    if id < 0:
        return Best(-1, LOWEST, 0)
    return Best(id, top, mass(scores, first, last, top, 1.0))


@always_inline
def mass(scores: Scores[_, _], first: Int, last: Int, top: Float32, scale: Float32) -> Float32:
    """Sum of exp((score - top) * scale) over ids [first, last)."""
    var sums = Vector(0)
    var i = first
    while i + LANES <= last:
        sums += exp((scores.lanes(i) - top) * scale)
        i += LANES
    var total = sums.reduce_add()
    while i < last:
        total += exp((scores.at(i) - top) * scale)
        i += 1
    return total


@always_inline
def find_mass(
    scores: Scores[_, _], first: Int, last: Int, top: Float32, scale: Float32, mut wanted: Float32
) -> Int:
    """The id of [first, last) at which the running mass passes `wanted`, or -1.

    What the range holds is taken off `wanted` where it is not reached.
    """
    var i = first
    while i < last:
        var end = min(i + 64 * LANES, last)
        var part = mass(scores, i, end, top, scale)
        if part > wanted:
            for id in range(i, end):
                wanted -= exp((scores.at(id) - top) * scale)
                if wanted < 0:
                    return id
            wanted = 0  # rounding: the part held a hair less than its sum said
        else:
            wanted -= part
        i = end
    return -1


@always_inline
def insert_best(
    ids: Pointer[mut=True, Int32, _],
    values: Pointer[mut=True, Float32, _],
    count: Int,
    k: Int,
    id: Int,
    value: Float32,
) -> Int:
    """Insert into the k best so far, ordered by value, earlier ids first; returns their count."""
    var at = min(count, k - 1)
    while at > 0 and values[unsafe_offset=at - 1] < value:
        ids[unsafe_offset=at] = ids[unsafe_offset=at - 1]
        values[unsafe_offset=at] = values[unsafe_offset=at - 1]
        at -= 1
    ids[unsafe_offset=at] = Int32(id)
    values[unsafe_offset=at] = value
    return min(count + 1, k)


@always_inline
def collect_best(
    ids: Pointer[mut=True, Int32, _],
    values: Pointer[mut=True, Float32, _],
    found: Int,
    k: Int,
    scores: Scores[_, _],
    first: Int,
    last: Int,
) -> Int:
    """Add ids [first, last) to the k best so far; returns their count."""
    var count = found
    var i = first
    while i < last:
        var end = min(i + LANES, last)
        var floor = values[unsafe_offset=k - 1] if count == k else LOWEST
        if end - i == LANES and scores.lanes(i).reduce_max() <= floor:
            i = end
            continue
        for id in range(i, end):
            var value = scores.at(id)
            var bar = values[unsafe_offset=k - 1] if count == k else LOWEST
            if value > bar:
                count = insert_best(ids, values, count, k, id, value)
        i = end
    return count


@always_inline
def mask_of[origin: Origin](
    suppress: Pointer[Float32, origin], state: Pointer[Int32, _], vocab: Int
) -> Pointer[Float32, origin]:
    """The row of `suppress` [2, vocab] that holds for a row: the second for its first sampled token."""
    return suppress.unsafe_offset(vocab if state[unsafe_offset=N_SAMPLED] == 0 else 0)


trait Earlier:
    """Text before the ids whose scores a choice is given: none, or what is known of it.

    The choice asks where the rules allow all of it but what is suppressed, which is never counted.
    """

    def best(
        self, ids: Pointer[mut=True, Int32, _], values: Pointer[mut=True, Float32, _], k: Int
    ) -> Int:
        """Put the k best ids and their scores, best first; returns how many there are."""
        ...

    def mass(self, top: Float32, scale: Float32) -> Float32:
        """Sum of exp((score - top) * scale); `scale` is 1, or the inverse of the row's temperature."""
        ...

    def find(self, top: Float32, scale: Float32, mut wanted: Float32) -> Best:
        """The id at which the running mass passes `wanted`, and its score; as `find_mass`."""
        ...


@fieldwise_init
struct NoneEarlier(Copyable, Earlier, Movable):
    """The scores are those of all ids."""

    @always_inline
    def best(
        self, ids: Pointer[mut=True, Int32, _], values: Pointer[mut=True, Float32, _], k: Int
    ) -> Int:
        return 0

    @always_inline
    def mass(self, top: Float32, scale: Float32) -> Float32:
        return 0

    @always_inline
    def find(self, top: Float32, scale: Float32, mut wanted: Float32) -> Best:
        return Best(-1, LOWEST, 0)


@fieldwise_init
struct Row(Copyable, Movable):
    """What a row's choice depends on beside its scores."""

    var allowed: Allowed
    var with_timestamps: Bool
    var temperature: Float32
    var uniform: Float32


@always_inline
def row_of(
    state: Pointer[Int32, _], temperature: Float32, uniform: Float32, eot: Int, begin: Int, vocab: Int
) -> Row:
    """The row whose rule state that is."""
    var with_timestamps = state[unsafe_offset=WITH_TIMESTAMPS] != 0
    var allowed = allowed_ids(
        Int(state[unsafe_offset=LAST]),
        Int(state[unsafe_offset=PENULTIMATE]),
        Int(state[unsafe_offset=LAST_TIMESTAMP]),
        Int(state[unsafe_offset=N_SAMPLED]),
        with_timestamps,
        Int(state[unsafe_offset=MAX_INITIAL]),
        eot, begin, vocab,
    )
    return Row(allowed^, with_timestamps, temperature, uniform)


@always_inline
def sample[Text: Earlier](
    earlier: Text,
    scores: Scores[_, _],
    row: Row,
    first: Int,
    begin: Int,
    verdict: Verdict,
    likeliest: Best,
) -> Best:
    """The id at which the row's running probability passes its uniform; arguments as for `choose_row`."""
    ref allowed = row.allowed
    var scale = 1 / row.temperature
    var top = likeliest.logit
    var text_from = max(allowed.text_from, first)
    var has_earlier = verdict.text and allowed.text_from < first
    var total = Float32(0)
    if has_earlier:
        total += earlier.mass(top, scale)
    if verdict.text:
        total += mass(scores, text_from, begin, top, scale)
    if verdict.time:
        total += mass(scores, allowed.time_from, allowed.time_to, top, scale)
    var wanted = row.uniform * total
    if has_earlier:
        var found = earlier.find(top, scale, wanted)
        if found.exists():
            return found^
    var id = -1
    if verdict.text:
        id = find_mass(scores, text_from, begin, top, scale, wanted)
    if id < 0 and verdict.time:
        id = find_mass(scores, allowed.time_from, allowed.time_to, top, scale, wanted)
    if id < 0:
        # Rounding left the last bit of probability over.
        return likeliest.copy()
    return Best(id, scores.at(id), 0)


@always_inline
def choose_row[Text: Earlier](
    tokens: Pointer[mut=True, Int32, _],
    logprobs: Pointer[mut=True, Float32, _],
    k: Int,
    earlier: Text,
    scores: Scores[_, _],
    row: Row,
    first: Int,
    eot: Int,
    begin: Int,
):
    """Put a row's k tokens and their log-probabilities, as mwc_choose says.

    `scores` has those of all ids from `first` on, `earlier` what is before, which is all text.
    """
    ref allowed = row.allowed
    var text_from = max(allowed.text_from, first)
    var text = best_of(scores, text_from, begin)
    var count = 0
    if allowed.text_from < first:
        count = earlier.best(tokens, logprobs, k)
        if count > 0:
            var top = logprobs[unsafe_offset=0]
            text = join(Best(Int(tokens[unsafe_offset=0]), top, earlier.mass(top, 1)), text)
    var time = best_of(scores, allowed.time_from, allowed.time_to)
    var verdict = judge(text, time, row.with_timestamps)
    var likeliest = text.copy() if verdict.text and text.logit >= time.logit else time.copy()
    if row.temperature > 0:
        likeliest = sample(earlier, scores, row, first, begin, verdict, likeliest)
    if row.temperature > 0 or k == 1:
        count = 0
        if likeliest.exists():
            count = insert_best(tokens, logprobs, 0, k, likeliest.id, likeliest.logit)
    else:
        if verdict.text:
            count = collect_best(tokens, logprobs, count, k, scores, text_from, begin)
        else:
            count = 0
        if verdict.time:
            count = collect_best(
                tokens, logprobs, count, k, scores, allowed.time_from, allowed.time_to
            )
    for i in range(count):
        logprobs[unsafe_offset=i] -= verdict.log_total
    for i in range(count, k):
        tokens[unsafe_offset=i] = Int32(eot)
        logprobs[unsafe_offset=i] = LOWEST


@extensibility.register("mwc_choose")
struct Choose:
    """The choice of each row under the rules.

    Inputs: logits f32 [n, n_vocab]; suppress f32 [2, n_vocab] of 0 and -inf (row 1 holds for a
    row's first sampled token, row 0 after it); states int32 [n, 6]; temperatures f32 [n]; uniforms
    f32 [n] in [0, 1); ids int32 [2] = (eot, timestamp_begin).
    Outputs: tokens int32 [n, k] and logprobs f32 [n, k], after all filters, at temperature 1. At
    temperature 0 they are the k likeliest, best first; above, the first is a sample: the id at
    which the running probability passes the row's uniform. Where fewer are allowed, the rest is
    eot with a logprob of -1e30.
    """

    @staticmethod
    def execute[target: StaticString](
        tokens: OutputTensor[dtype=DType.int32, rank=2, ...],
        logprobs: OutputTensor[dtype=F32, rank=2, ...],
        logits: InputTensor[dtype=F32, rank=2, ...],
        suppress: InputTensor[dtype=F32, rank=2, ...],
        states: InputTensor[dtype=DType.int32, rank=2, ...],
        temperatures: InputTensor[dtype=F32, rank=1, ...],
        uniforms: InputTensor[dtype=F32, rank=1, ...],
        ids: InputTensor[dtype=DType.int32, rank=1, ...],
    ) raises:
        var vocab = logits.dim_size(1)
        var k = tokens.dim_size(1)
        var eot = Int(ids.unsafe_ptr()[unsafe_offset=0])
        var begin = Int(ids.unsafe_ptr()[unsafe_offset=1])
        var logit_ptr = logits.unsafe_ptr()
        var suppress_ptr = suppress.unsafe_ptr()
        var state_ptr = states.unsafe_ptr()
        var temperature_ptr = temperatures.unsafe_ptr()
        var uniform_ptr = uniforms.unsafe_ptr()
        var token_ptr = tokens.unsafe_ptr()
        var logprob_ptr = logprobs.unsafe_ptr()

        def choose(r: Int) {var vocab, var k, var eot, var begin, var logit_ptr, var suppress_ptr, var state_ptr, var temperature_ptr, var uniform_ptr, var token_ptr, var logprob_ptr}:
            var state = state_ptr.unsafe_offset(r * STATE_SIZE)
            var row = row_of(
                state, temperature_ptr[unsafe_offset=r], uniform_ptr[unsafe_offset=r],
                eot, begin, vocab,
            )
            var mask = mask_of(suppress_ptr, state, vocab)
            choose_row(
                token_ptr.unsafe_offset(r * k), logprob_ptr.unsafe_offset(r * k), k, NoneEarlier(),
                Scores(logit_ptr.unsafe_offset(r * vocab), mask), row, 0, eot, begin,
            )

        share(choose, logits.dim_size(0))
