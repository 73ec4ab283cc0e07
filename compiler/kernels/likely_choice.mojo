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
from .pointers import Numbers, Room, Values, untracked, untracked_mut
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
struct Head(Copyable, Movable):
    """The last norm, the token embedding with its columns' scales, and what its sieve leaves out at most."""

    var gamma: Values
    var beta: Values
    var columns: Values
    var embedding: Embedding
    var bounds: Values


@fieldwise_init
struct Kinds(Copyable, Movable):
    """What the rows of a step are: how many are sieved, how many may choose text; and their timestamps.

    Rows stand in the order of their kinds. Timestamps that any of them may choose are [time_from, time_to).
    """

    var sieved: Int
    var with_text: Int
    var time_from: Int
    var time_to: Int


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


struct LikelyChoice(Movable):
    """The choices of m rows x[m, k], step after step, and what they are worked out in.

    One thread says what the rows of a step are, `take_rows`; then all go through its `PHASES`. What a
    step's kinds are stays as it is, as a thread that comes late counts its items by them.
    """

    comptime PHASES = 5

    var head: Head
    var rules: Rules
    var x: Values
    var tokens: Pointer[Int32, MutUntrackedOrigin]
    var logprobs: Numbers
    var m: Int
    var candidates: Int
    # Blocks before eot, as many as are noted together or a multiple.
    var text: Int
    var samples: Bool
    var parts: Int
    var kinds: Room[Kinds]
    var notes: Room[Notes]
    var numbers: Room[Float32]
    var words: Room[Int16]
    var normed: Room[Float32]
    var bytes: Room[Int8]
    var sieves: Room[Sieve]
    # All rows once more as tiles have them, for the logits from eot on.
    var tiles: Room[Int16]
    var units: Room[Float32]
    var others: Room[Float32]

    def __init__(
        out self,
        head: Head,
        rules: Rules,
        x: Values,
        tokens: Pointer[Int32, MutUntrackedOrigin],
        logprobs: Numbers,
        m: Int,
        candidates: Int,
        steps: Int,
        threads: Int,
    ):
        """Put `candidates` tokens and log-probabilities [m, candidates] of each step there."""
        var n = head.embedding.n
        var k = head.embedding.k
        self.head = head.copy()
        self.rules = rules.copy()
        self.x = x
        self.tokens = tokens
        self.logprobs = logprobs
        self.m = m
        self.candidates = candidates
        self.text = min(rules.eot, n) // (NOTED * COLUMNS) * NOTED
        self.samples = False
        for i in range(m):
            self.samples = self.samples or rules.temperatures[unsafe_offset=i] > 0
        self.parts = min(SHARES * threads, self.text // NOTED)
        self.kinds = Room[Kinds](steps)
        self.notes = Room[Notes](m)
        var each = groups_of(self.text) + (3 if self.samples else 2) * self.text
        self.numbers = Room[Float32](m * each)
        self.words = Room[Int16](m * k)
        self.normed = Room[Float32](m * k)
        self.bytes = Room[Int8](m * k)
        self.sieves = Room[Sieve](m)
        self.tiles = Room[Int16](m * k)
        self.units = Room[Float32](m)
        self.others = Room[Float32](m * (n - self.text * COLUMNS))

    def notes_of(self, i: Int, line: Int) -> Notes:
        """A row as its state is now, with the numbers of a line."""
        ref rules = self.rules
        ref embedding = self.head.embedding
        var state = rules.states.unsafe_offset(i * STATE_SIZE)
        var groups = groups_of(self.text)
        var each = len(self.numbers.values) // self.m
        var tops = self.numbers.at.unsafe_offset(line * each)
        var most = tops.unsafe_offset(groups)
        var sums = most.unsafe_offset(self.text)
        var own_sums = sums.unsafe_offset(self.text if self.samples else 0)
        var row = row_of(
            state, rules.temperatures[unsafe_offset=i], rules.uniforms[unsafe_offset=i], rules.eot,
            rules.begin, embedding.n,
        )
        return Notes(
            embedding.copy(), self.text, i, row^, Int(rules.wanted[unsafe_offset=i]),
            mask_of(rules.suppress, state, embedding.n),
            self.words.at.unsafe_offset(line * embedding.k), 0, most, sums,
            own_sums, tops, 0,
        )

    def kind_of(self, note: Notes) -> Int:
        """Which of the kinds a row is."""
        if note.row.allowed.text_from >= self.text * COLUMNS:
            return NO_TEXT
        return SIEVED if note.wanted > 0 and note.row.temperature == 0 else IN_FULL

    def take_rows(self, step: Int):
        """Put the rows of a step, as their states are now, in the order of their kinds."""
        var notes = self.notes.at
        var counts = Array[Int, length=KINDS](fill=0)
        var time_from = self.head.embedding.n
        var time_to = 0
        var line = 0
        for kind in range(KINDS):
            for i in range(self.m):
                var note = self.notes_of(i, line)
                if self.kind_of(note) != kind:
                    continue
                time_from = min(time_from, note.row.allowed.time_from)
                time_to = max(time_to, note.row.allowed.time_to)
                counts[kind] += 1
                notes[unsafe_offset=line] = note^
                line += 1
        self.kinds.at[unsafe_offset=step] = Kinds(
            counts[SIEVED], counts[SIEVED] + counts[IN_FULL], time_from, time_to
        )

    @always_inline
    def work(self, step: Int, counters: Pointer[mut=True, Int64, _], phase: Int):
        """Go through a step's phases, which are counted from `phase` on, with other threads."""
        ref kinds = self.kinds.at[unsafe_offset=step]
        var n_others = self.head.embedding.n - self.text * COLUMNS
        var other_items = (blocks_of(n_others) + OTHERS - 1) // OTHERS
        var groups = groups_of(self.text)

        def round_row(line: Int) {imm}:
            self.round_row(line, kinds)

        def first_pass(item: Int) {imm}:
            if item < other_items:
                self.multiply_others(item, kinds)
            elif kinds.with_text > 0:
                self.note_group(item - other_items, kinds)

        def set_bar(line: Int) {imm}:
            self.notes.at[unsafe_offset=line].set_bar()

        def note_likely(part: Int) {imm}:
            self.note_likely(part, kinds)

        def choose(line: Int) {imm}:
            self.choose(line)

        work_through(round_row, self.m, counters, phase)
        work_through(first_pass, other_items + groups, counters, phase + 1)
        work_through(set_bar, kinds.sieved, counters, phase + 2)
        work_through(note_likely, self.parts, counters, phase + 3)
        work_through(choose, self.m, counters, phase + 4)

    @always_inline
    def round_row(self, line: Int, kinds: Kinds):
        """Normalise a row and round it, for products in full and for the sieve."""
        var k = self.head.embedding.k
        ref note = self.notes.at[unsafe_offset=line]
        var normed = self.normed.at
        var row = normed.unsafe_offset(line * k)
        norm_rows(
            row, self.x.unsafe_offset(note.index * k), self.head.gamma, self.head.beta,
            self.head.columns, 1, k,
        )
        note.unit = quantize_words(note.words, row, k, 1, k)
        quantize_rows(
            self.tiles.at, self.units.at, normed,
            line, line + 1, self.m, k, k,
        )
        if line < kinds.sieved:
            var bytes = self.bytes.at.unsafe_offset(line * k)
            self.sieves.at[unsafe_offset=line] = sieve_row(
                bytes, row, self.head.bounds, k
            )

    @always_inline
    def multiply_others(self, item: Int, kinds: Kinds):
        """Logits from eot on of all rows, but for timestamps that none of them may choose."""
        ref embedding = self.head.embedding
        var first_other = self.text * COLUMNS
        var n_others = embedding.n - first_other
        var others = self.others.at
        var weights = List[Int8](unsafe_uninit_length=COLUMNS * embedding.k)
        for block in range(item * OTHERS, min((item + 1) * OTHERS, blocks_of(n_others))):
            var first = first_other + block * COLUMNS
            var untimed = first + COLUMNS <= kinds.time_from or first >= kinds.time_to
            if first >= self.rules.begin and untimed:
                continue
            embedding.read(weights.unsafe_ptr(), self.text + block)
            embedding.multiply(
                others.unsafe_offset(block * COLUMNS), n_others, self.tiles.at,
                self.units.at, weights.unsafe_ptr(), self.text + block, self.m,
            )

    @always_inline
    def note_group(self, group: Int, kinds: Kinds):
        """Notes of a group of text, of those rows that may choose it."""
        ref embedding = self.head.embedding
        var k = embedding.k
        var first = group * GROUP
        var count = min(GROUP, self.text - first)
        var logit_list = List[Float32](unsafe_uninit_length=kinds.with_text * APART)
        var logits = logit_list.unsafe_ptr()
        var at = first * COLUMNS
        sieve_blocks(
            logits, APART, self.bytes.at, self.sieves.at, kinds.sieved,
            embedding.high.unsafe_offset(at * k // 2), embedding.scale.unsafe_offset(at), count, k,
        )
        if kinds.with_text > kinds.sieved:
            var weights = List[Int8](unsafe_uninit_length=COLUMNS * k)
            for b in range(count):
                embedding.read(weights.unsafe_ptr(), first + b)
                for line in range(kinds.sieved, kinds.with_text):
                    logits.unsafe_store(
                        line * APART + b * COLUMNS,
                        self.notes.at[unsafe_offset=line].product(weights.unsafe_ptr(), first + b),
                    )
        for line in range(kinds.with_text):
            ref note = self.notes.at[unsafe_offset=line]
            var own = logits.unsafe_offset(line * APART)
            if line < kinds.sieved:
                note.note[False](group, own, self.sieves.at[unsafe_offset=line].spread)
            else:
                note.note[True](group, own, 0)

    @always_inline
    def note_likely(self, part: Int, kinds: Kinds):
        """Compute blocks in full in which a token may pass a row's bar."""
        ref embedding = self.head.embedding
        var spans = self.text // NOTED
        var weights = List[Int8](unsafe_uninit_length=COLUMNS * embedding.k)
        for span in range(spans * part // self.parts, spans * (part + 1) // self.parts):
            var first = span * NOTED
            var any = SIMD[DType.bool, NOTED](fill=False)
            for line in range(kinds.sieved):
                any |= self.notes.at[unsafe_offset=line].may_pass(first)
            if not any.reduce_or():
                continue
            for b in range(NOTED):
                if not any[b]:
                    continue
                embedding.read(weights.unsafe_ptr(), first + b)
                for line in range(kinds.sieved):
                    ref note = self.notes.at[unsafe_offset=line]
                    if note.may_pass(first)[b]:
                        _ = note.note_block(weights.unsafe_ptr(), first + b)

    @always_inline
    def choose(self, line: Int):
        """A row's choice, of what it was noted and of its logits from eot on."""
        ref note = self.notes.at[unsafe_offset=line]
        var first_other = self.text * COLUMNS
        var n_others = self.head.embedding.n - first_other
        var own = self.others.at.unsafe_offset(line * n_others - first_other)
        var at = note.index * self.candidates
        choose_row(
            self.tokens.unsafe_offset(at), self.logprobs.unsafe_offset(at), self.candidates, note,
            Scores(own, note.mask), note.row, first_other, self.rules.eot, self.rules.begin,
        )


def choose_likely(
    tokens: Pointer[mut=True, Int32, _],
    logprobs: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    head: Head,
    rules: Rules,
    m: Int,
    candidates: Int,
) raises:
    """Put the `candidates` choices of rows x[m, k]; what the pointers are, the operation says."""
    var work = m * head.embedding.n * head.embedding.k
    var threads = 1 if work < SERIAL_WORK_INT8 else parallelism_level()
    var choice = LikelyChoice(
        head, rules, untracked(x), untracked_mut(tokens), untracked_mut(logprobs), m, candidates,
        1, threads,
    )
    choice.take_rows(0)
    var counter_list = phase_counters(LikelyChoice.PHASES)
    var counters = counter_list.unsafe_ptr()

    def task(t: Int) {imm}:
        choice.work(0, counters, 0)

    if threads == 1:
        task(0)
    else:
        sync_parallelize(task, threads)
    _ = choice^
    _ = counter_list^
