"""What is kept of a row's logits before eot, instead of them: of each block of 16 a bound and a sum.

likely_choice.mojo says what for.
"""

from std.math import exp
from std.memory import bitcast
from std.utils.numerics import neg_inf

from .choose import Earlier, Row, insert_best
from .linear import larger
from .pointers import Numbers, Values
from .quantized import COLUMNS, F32, I32
from .rules import LOWEST, Best
from .token_embedding import Block, Embedding

comptime GROUP = 32
"""Blocks of text that one thread takes as one item, however many threads there are."""
comptime NOTED = 16
"""Blocks whose numbers are looked at together; the blocks of text are so many, or a multiple."""
comptime LOOKS = 8
"""Blocks computed in full for a bar, beside the wanted ones, while they promise to raise it."""


@always_inline
def rough_exp(x: Block) -> Block:
    """e to the power of x, which is 0 or less, to one part in ten thousand.

    As of logits that are further off by themselves.
    """
    var t = larger[COLUMNS](x * 1.44269504, -126)
    var whole = round(t)
    var f = t - whole
    # 2^f for |f| up to a half, fitted for the least largest relative error: 7.5e-5.
    var p = f.fma(Block(0.05517165), 0.24261117).fma(f, 0.69326099).fma(f, 0.99992807)
    return bitcast[F32, COLUMNS](bitcast[I32, COLUMNS](p) + (whole.cast[I32]() << 23))


@fieldwise_init
struct Notes(Copyable, Earlier, Movable):
    """A row, and what is kept of its logits before eot.

    `most` and `sums` [blocks] are the numbers of each block; sums are relative to `tops` [groups], but
    for blocks noted in full by themselves, whose sums are negative, and relative to `most`. `own_sums`
    are those at the row's temperature. `words` [k] is the row in 16 bits.
    """

    var embedding: Embedding
    var blocks: Int
    var index: Int
    var row: Row
    var wanted: Int
    var mask: Values
    var words: Pointer[Int16, MutUntrackedOrigin]
    var unit: Float32
    var most: Numbers
    var sums: Numbers
    var own_sums: Numbers
    var tops: Numbers
    var bar: Float32

    @always_inline
    def allowed(self, block: Int, logits: Block) -> Block:
        """A block's logits where they may be chosen."""
        return logits + self.mask.unsafe_load[width=COLUMNS](block * COLUMNS)

    @always_inline
    def product(self, weights: Pointer[Int8, _], block: Int) -> Block:
        """A block's logits in full."""
        var products = self.embedding.products[1](self.words, weights, block)
        return products[0] * (self.embedding.scales(block) * self.unit)

    @always_inline
    def note[in_full: Bool](self, group: Int, logits: Pointer[mut=True, Float32, _], spread: Float32):
        """Note a group's blocks, given their logits, which are `spread` scales off at most."""
        var first = group * GROUP
        var count = min(GROUP, self.blocks - first)
        var highest = Block(LOWEST)
        for b in range(count):
            var values = self.allowed(first + b, logits.unsafe_load[width=COLUMNS](b * COLUMNS))
            logits.unsafe_store(b * COLUMNS, values)
            highest = larger[COLUMNS](highest, values)
            comptime if not in_full:
                values = self.embedding.scales(first + b).fma(spread, values)
            self.most[unsafe_offset=first + b] = values.reduce_max()
        var top = highest.reduce_max()
        self.tops[unsafe_offset=group] = top
        for b in range(count):
            var below = logits.unsafe_load[width=COLUMNS](b * COLUMNS) - top
            comptime if in_full:
                self.sums[unsafe_offset=first + b] = exp(below).reduce_add()
                if self.row.temperature > 0:
                    var own = exp(below * (1 / self.row.temperature))
                    self.own_sums[unsafe_offset=first + b] = own.reduce_add()
            else:
                self.sums[unsafe_offset=first + b] = rough_exp(below).reduce_add()

    @always_inline
    def note_block(self, weights: Pointer[Int8, _], block: Int) -> Block:
        """Note a block in full; returns its logits where they may be chosen."""
        var values = self.allowed(block, self.product(weights, block))
        var top = values.reduce_max()
        self.most[unsafe_offset=block] = top
        self.sums[unsafe_offset=block] = -exp(values - top).reduce_add()
        return values

    @always_inline
    def may_pass(self, block: Int) -> SIMD[DType.bool, NOTED]:
        """In which of NOTED blocks a token may pass the bar."""
        var most = self.most.unsafe_load[width=NOTED](block)
        return most.gt(LOWEST) & most.ge(self.bar)

    @always_inline
    def promising(self, count: Int) -> List[Int]:
        """The blocks with the `count` highest numbers, the highest first, earlier ones before others."""
        var places = List[Int](capacity=count)
        for first in range(0, self.blocks, NOTED):
            var floor = LOWEST
            if len(places) == count:
                floor = self.most[unsafe_offset=places[count - 1]]
            if not self.most.unsafe_load[width=NOTED](first).gt(floor).reduce_or():
                continue
            for block in range(first, first + NOTED):
                var value = self.most[unsafe_offset=block]
                if len(places) == count:
                    if not value > self.most[unsafe_offset=places[count - 1]]:
                        continue
                    _ = places.pop()
                elif not value > LOWEST:
                    continue
                var at = len(places)
                while at > 0 and self.most[unsafe_offset=places[at - 1]] < value:
                    at -= 1
                places.insert(at, block)
        return places^

    @always_inline
    def set_bar(mut self):
        """Compute the blocks in full that promise most, until no other one promises to raise the bar."""
        self.bar = neg_inf[F32]()
        var ids = List[Int32](length=self.wanted, fill=0)
        var values = List[Float32](length=self.wanted, fill=0)
        var weights = List[Int8](length=COLUMNS * self.embedding.k, fill=0)
        var count = 0
        for block in self.promising(self.wanted + LOOKS):
            if self.most[unsafe_offset=block] < self.bar:
                break
            self.embedding.read(weights.unsafe_ptr(), block)
            var logits = self.note_block(weights.unsafe_ptr(), block)
            count = insert_block(
                ids.unsafe_ptr(), values.unsafe_ptr(), count, self.wanted, block, logits
            )
            if count == self.wanted:
                self.bar = values[count - 1]
        _ = ids^
        _ = values^
        _ = weights^

    @always_inline
    def best(
        self, ids: Pointer[mut=True, Int32, _], values: Pointer[mut=True, Float32, _], k: Int
    ) -> Int:
        var blocks = self.promising(k)
        sort(blocks)
        var weights = List[Int8](length=COLUMNS * self.embedding.k, fill=0)
        var count = 0
        for block in blocks:
            self.embedding.read(weights.unsafe_ptr(), block)
            var logits = self.allowed(block, self.product(weights.unsafe_ptr(), block))
            count = insert_block(ids, values, count, k, block, logits)
        _ = weights^
        return count

    @always_inline
    def mass_of(self, sums: Numbers, group: Int, top: Float32, scale: Float32) -> Float32:
        """The mass of one group."""
        var first = group * GROUP
        var together = Block(0)
        var apart = Block(0)
        for block in range(first, min(first + GROUP, self.blocks), NOTED):
            var own = sums.unsafe_load[width=NOTED](block)
            var in_full = own.lt(0)
            together += in_full.select(Block(0), own)
            if in_full.reduce_or():
                var tops = self.most.unsafe_load[width=NOTED](block)
                apart += in_full.select(-own * exp((tops - top) * scale), Block(0))
        var factor = exp((self.tops[unsafe_offset=group] - top) * scale)
        return together.reduce_add() * factor + apart.reduce_add()

    @always_inline
    def mass(self, top: Float32, scale: Float32) -> Float32:
        var sums = self.sums if scale == 1 else self.own_sums
        var total = Float32(0)
        for group in range(groups_of(self.blocks)):
            total += self.mass_of(sums, group, top, scale)
        return total

    def find(self, top: Float32, scale: Float32, mut wanted: Float32) -> Best:
        var sums = self.sums if scale == 1 else self.own_sums
        for group in range(groups_of(self.blocks)):
            var mass = self.mass_of(sums, group, top, scale)
            if not mass > wanted:
                wanted -= mass
                continue
            var factor = exp((self.tops[unsafe_offset=group] - top) * scale)
            var first = group * GROUP
            for block in range(first, min(first + GROUP, self.blocks)):
                var part = sums[unsafe_offset=block] * factor
                if not part > wanted:
                    wanted -= part
                    continue
                var weights = List[Int8](length=COLUMNS * self.embedding.k, fill=0)
                self.embedding.read(weights.unsafe_ptr(), block)
                var logits = self.allowed(block, self.product(weights.unsafe_ptr(), block))
                _ = weights^
                for lane in range(COLUMNS):
                    wanted -= exp((logits[lane] - top) * scale)
                    if wanted < 0:
                        return Best(block * COLUMNS + lane, logits[lane], 0)
            wanted = 0  # rounding: the part held a hair less than its sum said
        return Best(-1, LOWEST, 0)


@always_inline
def insert_block(
    ids: Pointer[mut=True, Int32, _],
    values: Pointer[mut=True, Float32, _],
    found: Int,
    k: Int,
    block: Int,
    logits: Block,
) -> Int:
    """Add a block's tokens to the k best so far, those of later blocks last; returns their count."""
    var count = found
    for lane in range(COLUMNS):
        var floor = values[unsafe_offset=k - 1] if count == k else LOWEST
        if logits[lane] > floor:
            count = insert_best(ids, values, count, k, block * COLUMNS + lane, logits[lane])
    return count


@always_inline
def groups_of(blocks: Int) -> Int:
    """Groups of so many blocks."""
    return (blocks + GROUP - 1) // GROUP

