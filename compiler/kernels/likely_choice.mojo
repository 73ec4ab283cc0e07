"""The LM head and the choice in one, for int8 weights: no row's logits are written.

A token that may be chosen is text, before eot, or one of the few from eot on, timestamps among them.
These are computed in full. Text goes through the sieve (sieve.mojo) group by group, and of each block
of 16 tokens two numbers are kept: what the best that may be chosen is at most, and the sum of
exponentials. Then, of each row:

- The blocks that promise most are computed in full. What the last of the wanted ones is then at
  least is the row's bar.
- Every other block in which a token may pass the bar is computed in full too.
- So the blocks with the highest numbers hold the best tokens, which are what the whole product gives.

Where any token may be sampled, all are computed in full instead of going through the sieve.
"""

from max.algorithm import sync_parallelize
from std.runtime import parallelism_level

from .choose import Scores, choose_row, mask_of, row_of
from .linear import WIDTH, layer_norm_rows
from .linear_int8 import SERIAL_WORK_INT8, blocks_of, quantize_rows
from .parallel import phase_counters, work_through
from .pointers import Values, untracked_mut
from .quantized import COLUMNS
from .rounding import quantize_words
from .row_notes import GROUP, NOTED, Notes, groups_of
from .rules import STATE_SIZE
from .sieve import Sieve, sieve_blocks, sieve_row
from .token_embedding import Embedding

comptime OTHERS = 8
"""Blocks from eot on that a thread takes as one item."""
comptime APART = (GROUP + 1) * COLUMNS
"""Logits of a group from one row's to the next one's: a power of two would have all rows meet in a
few places of the cache."""
comptime SHARES = 16
"""Parts for each thread of what may pass the bars."""
comptime SIEVED = 0
"""Kinds of rows: those whose text goes through the sieve,"""
comptime IN_FULL = 1
"""those whose text is computed in full,"""
comptime NO_TEXT = 2
"""and those that may not choose any before eot."""
comptime KINDS = 3


@fieldwise_init
struct Rules(Copyable, Movable):
    """What the choice of m rows depends on beside x; see the operation."""

    var wanted: Pointer[Int32, ImmUntrackedOrigin]
    var suppress: Values
    var states: Pointer[Int32, ImmUntrackedOrigin]
    var temperatures: Values
    var uniforms: Values
    var eot: Int
    var begin: Int


@fieldwise_init
struct Lines(Movable):
    """Rows in the order of their kinds, and what their notes are kept in."""

    var notes: List[Notes]
    var counts: Array[Int, KINDS]
    var numbers: List[Float32]
    var words: List[Int16]


def lines_of(rules: Rules, embedding: Embedding, text: Int, m: Int) -> Lines:
    """Rows in the order of their kinds; `text`: blocks before eot."""
    var samples = False
    for i in range(m):
        samples = samples or rules.temperatures[unsafe_offset=i] > 0
    var groups = groups_of(text)
    var each = groups + (3 if samples else 2) * text
    var lines = Lines(
        List[Notes](capacity=m), Array[Int, KINDS](fill=0),
        List[Float32](unsafe_uninit_length=m * each),
        List[Int16](unsafe_uninit_length=m * embedding.k),
    )
    for kind in range(KINDS):
        for i in range(m):
            var row = row_of(
                rules.states.unsafe_offset(i * STATE_SIZE), rules.temperatures[unsafe_offset=i],
                rules.uniforms[unsafe_offset=i], rules.eot, rules.begin, embedding.n,
            )
            var wanted = Int(rules.wanted[unsafe_offset=i])
            var own_kind = SIEVED if wanted > 0 and row.temperature == 0 else IN_FULL
            if row.allowed.text_from >= text * COLUMNS:
                own_kind = NO_TEXT
            if own_kind != kind:
                continue
            var line = len(lines.notes)
            var tops = untracked_mut(lines.numbers.unsafe_ptr()).unsafe_offset(line * each)
            var most = tops.unsafe_offset(groups)
            var sums = most.unsafe_offset(text)
            var own_sums = sums.unsafe_offset(text if samples else 0)
            var words = untracked_mut(lines.words.unsafe_ptr()).unsafe_offset(line * embedding.k)
            var mask = mask_of(rules.suppress, rules.states.unsafe_offset(i * STATE_SIZE), embedding.n)
            lines.notes.append(
                Notes(
                    embedding.copy(), text, i, row^, wanted, mask, words, 0, most, sums, own_sums,
                    tops, 0,
                )
            )
            lines.counts[kind] += 1
    return lines^


@always_inline
def norm_rows(
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    gamma: Pointer[Float32, _],
    beta: Pointer[Float32, _],
    columns: Pointer[Float32, _],
    m: Int,
    k: Int,
):
    """Put y[m, k] = layer_norm(x[m, k]) * columns[k]."""
    layer_norm_rows(y, x, gamma, beta, m, k)
    for i in range(m):
        for c in range(0, k, WIDTH):
            var scaled = y.unsafe_load[width=WIDTH](i * k + c) * columns.unsafe_load[width=WIDTH](c)
            y.unsafe_store(i * k + c, scaled)


def choose_likely(
    tokens: Pointer[mut=True, Int32, _],
    logprobs: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    gamma: Pointer[Float32, _],
    beta: Pointer[Float32, _],
    columns: Pointer[Float32, _],
    embedding: Embedding,
    bounds: Pointer[Float32, _],
    rules: Rules,
    m: Int,
    candidates: Int,
) raises:
    """Put the `candidates` choices of rows x[m, k]; what the pointers are, the operation says."""
    var k = embedding.k
    var text = min(rules.eot, embedding.n) // (NOTED * COLUMNS) * NOTED
    var first_other = text * COLUMNS
    var n_others = embedding.n - first_other
    var groups = groups_of(text)
    var lines = lines_of(rules, embedding, text, m)
    var time_from = embedding.n
    var time_to = 0
    for note in lines.notes:
        time_from = min(time_from, note.row.allowed.time_from)
        time_to = max(time_to, note.row.allowed.time_to)
    var sieved = lines.counts[SIEVED]
    var with_text = sieved + lines.counts[IN_FULL]
    var notes = lines.notes.unsafe_ptr()

    var normed_list = List[Float32](unsafe_uninit_length=m * k)
    var byte_list = List[Int8](unsafe_uninit_length=max(sieved, 1) * k)
    var sieve_list = List[Sieve](length=max(sieved, 1), fill=Sieve(0, 0, 0))
    # All rows once more as tiles have them, for the logits from eot on.
    var tile_list = List[Int16](unsafe_uninit_length=m * k)
    var unit_list = List[Float32](unsafe_uninit_length=m)
    var other_list = List[Float32](unsafe_uninit_length=m * n_others)
    var counter_list = phase_counters(5)
    var normed = normed_list.unsafe_ptr()
    var bytes = byte_list.unsafe_ptr()
    var sieves = sieve_list.unsafe_ptr()
    var tiles = tile_list.unsafe_ptr()
    var units = unit_list.unsafe_ptr()
    var others = other_list.unsafe_ptr()
    var counters = counter_list.unsafe_ptr()

    var threads = 1 if m * embedding.n * k < SERIAL_WORK_INT8 else parallelism_level()
    var other_items = (blocks_of(n_others) + OTHERS - 1) // OTHERS
    var spans = text // NOTED
    var parts = min(SHARES * threads, spans)

    def round_row(line: Int) {imm}:
        ref note = notes[unsafe_offset=line]
        var row = normed.unsafe_offset(line * k)
        norm_rows(row, x.unsafe_offset(note.index * k), gamma, beta, columns, 1, k)
        note.unit = quantize_words(note.words, row, k, 1, k)
        quantize_rows(tiles, units, normed, line, line + 1, m, k, k)
        if line < sieved:
            sieves[unsafe_offset=line] = sieve_row(bytes.unsafe_offset(line * k), row, bounds, k)

    def multiply_others(item: Int) {imm}:
        """Logits from eot on of all rows, but for timestamps that none of them may choose."""
        var weights = List[Int8](unsafe_uninit_length=COLUMNS * k)
        for block in range(item * OTHERS, min((item + 1) * OTHERS, blocks_of(n_others))):
            var first = first_other + block * COLUMNS
            if first >= rules.begin and (first + COLUMNS <= time_from or first >= time_to):
                continue
            embedding.read(weights.unsafe_ptr(), text + block)
            embedding.multiply(
                others.unsafe_offset(block * COLUMNS), n_others, tiles, units,
                weights.unsafe_ptr(), text + block, m,
            )

    def note_group(group: Int) {imm}:
        """Notes of a group of text, of those rows that may choose it."""
        var first = group * GROUP
        var count = min(GROUP, text - first)
        var logit_list = List[Float32](unsafe_uninit_length=with_text * APART)
        var logits = logit_list.unsafe_ptr()
        var at = first * COLUMNS
        sieve_blocks(
            logits, APART, bytes, sieves, sieved,
            embedding.high.unsafe_offset(at * k // 2), embedding.scale.unsafe_offset(at), count, k,
        )
        if with_text > sieved:
            var weights = List[Int8](unsafe_uninit_length=COLUMNS * k)
            for b in range(count):
                embedding.read(weights.unsafe_ptr(), first + b)
                for line in range(sieved, with_text):
                    logits.unsafe_store(
                        line * APART + b * COLUMNS,
                        notes[unsafe_offset=line].product(weights.unsafe_ptr(), first + b),
                    )
        for line in range(with_text):
            ref note = notes[unsafe_offset=line]
            var own = logits.unsafe_offset(line * APART)
            if line < sieved:
                note.note[False](group, own, sieves[unsafe_offset=line].spread)
            else:
                note.note[True](group, own, 0)

    def first_pass(item: Int) {imm}:
        if item < other_items:
            multiply_others(item)
        elif with_text > 0:
            note_group(item - other_items)

    def set_bar(line: Int) {imm}:
        notes[unsafe_offset=line].set_bar()

    def note_likely(part: Int) {imm}:
        """Compute blocks in full in which a token may pass a row's bar."""
        var weights = List[Int8](unsafe_uninit_length=COLUMNS * k)
        for span in range(spans * part // parts, spans * (part + 1) // parts):
            var first = span * NOTED
            var any = SIMD[DType.bool, NOTED](fill=False)
            for line in range(sieved):
                any |= notes[unsafe_offset=line].may_pass(first)
            if not any.reduce_or():
                continue
            for b in range(NOTED):
                if not any[b]:
                    continue
                embedding.read(weights.unsafe_ptr(), first + b)
                for line in range(sieved):
                    ref note = notes[unsafe_offset=line]
                    if note.may_pass(first)[b]:
                        _ = note.note_block(weights.unsafe_ptr(), first + b)

    def choose(line: Int) {imm}:
        ref note = notes[unsafe_offset=line]
        var at = note.index * candidates
        var scores = Scores(others.unsafe_offset(line * n_others - first_other), note.mask)
        choose_row(
            tokens.unsafe_offset(at), logprobs.unsafe_offset(at), candidates,
            note, scores, note.row, first_other, rules.eot, rules.begin,
        )

    def task(t: Int) {imm}:
        work_through(round_row, m, counters, 0)
        work_through(first_pass, other_items + groups, counters, 1)
        work_through(set_bar, sieved, counters, 2)
        work_through(note_likely, parts, counters, 3)
        work_through(choose, m, counters, 4)

    if threads == 1:
        task(0)
    else:
        sync_parallelize(task, threads)
    _ = lines^
    _ = normed_list^
    _ = byte_list^
    _ = sieve_list^
    _ = tile_list^
    _ = unit_list^
    _ = other_list^
    _ = counter_list^
