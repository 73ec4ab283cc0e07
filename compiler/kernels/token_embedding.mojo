"""The token embedding of int8 artifacts: bytes as halves, what rounding to them left, and scales.

A weight is scale[token] * column_scale[c] * (b + r / 256). b is a byte, kept as halves (half_bytes.mojo),
and r, from -127 to 127, its rest, packed as in quantized.mojo. So weights have 16 bits where all
three are read, which a step does for few blocks of tokens. Copies that tokens are drafted by have no
rests.
"""

from .half_bytes import OCTET, join_block, join_halves
from .linear_int8 import TILES, blocks_of, load_part, store_part
from .pointers import Values, untracked
from .quantized import COLUMNS, F32, I8, STEP, TERMS
from .word_sums import sum_words

comptime REST = Float32(1) / 256
"""What a unit of a rest is worth in units of the bytes."""
comptime Block = SIMD[F32, COLUMNS]


@fieldwise_init
struct Embedding(Copyable, Movable):
    """The token embedding [n, k], without the scales of its columns."""

    var high: Pointer[UInt8, ImmUntrackedOrigin]
    var low: Pointer[UInt8, ImmUntrackedOrigin]
    var rests: Pointer[Int8, ImmUntrackedOrigin]
    var has_rests: Bool
    var scale: Values
    var n: Int
    var k: Int

    @always_inline
    def read(self, weights: Pointer[mut=True, Int8, _], block: Int):
        """Put a block's bytes [k / 4, 16, 4]."""
        var at = block * COLUMNS * self.k // 2
        join_block(weights, self.high.unsafe_offset(at), self.low.unsafe_offset(at), self.k)

    @always_inline
    def put_row(
        self,
        x: Pointer[mut=True, Float32, _],
        token: Int,
        columns: Pointer[Float32, _],
        place: Pointer[Float32, _],
    ):
        """Put x[k] = the weights of a token, with the scales of the columns, + place[k]."""
        var lane = token % COLUMNS
        var unit = self.scale[unsafe_offset=token]
        var halves_at = (token - lane) * self.k // 2 + lane * TERMS
        var rests = self.rests.unsafe_offset((token - lane) * self.k + lane * TERMS)

        @always_inline
        def put(c: Int, weights: SIMD[I8, TERMS]) {imm}:
            var values = weights.cast[F32]()
            if self.has_rests:
                var rest = rests.unsafe_load[width=TERMS](c * COLUMNS)
                values = rest.cast[F32]().fma(REST, values)
            var scales = columns.unsafe_load[width=TERMS](c) * unit
            x.unsafe_store(c, values * scales + place.unsafe_load[width=TERMS](c))

        for octet in range(self.k // OCTET):
            var both = join_halves[TERMS](
                self.high.unsafe_load[width=TERMS](halves_at + octet * STEP),
                self.low.unsafe_load[width=TERMS](halves_at + octet * STEP),
            )
            put(octet * OCTET, both[0])
            put(octet * OCTET + TERMS, both[1])

    @always_inline
    def scales(self, block: Int) -> Block:
        """The scales of a block; 0 behind the last token."""
        return load_part(self.scale.unsafe_offset(block * COLUMNS), self.n - block * COLUMNS)

    @always_inline
    def products[rows: Int](
        self, words: Pointer[Int16, _], weights: Pointer[Int8, _], block: Int
    ) -> Array[Block, rows]:
        """The products of `rows` rows with a block, before scales; `weights`: its bytes as `read` put them.

        `words` as `sum_words` has them. A row's are rounded the same way whatever `rows` is.
        """
        var sums = sum_words[rows](words, weights, self.k)
        var products = Array[Block, length=rows](fill=Block(0))
        comptime for i in range(rows):
            products[i] = sums[i].cast[F32]()
        if self.has_rests:
            var rests = self.rests.unsafe_offset(block * COLUMNS * self.k)
            var rest_sums = sum_words[rows](words, rests, self.k)
            comptime for i in range(rows):
                products[i] = rest_sums[i].cast[F32]().fma(Block(REST), products[i])
        return products^

    @always_inline
    def multiply(
        self,
        y: Pointer[mut=True, Float32, _],
        stride: Int,
        words: Pointer[Int16, _],
        units: Pointer[Float32, _],
        weights: Pointer[Int8, _],
        block: Int,
        m: Int,
    ):
        """Put a block's logits of m rows, which are `stride` apart: y being the first row's of this block.

        `words` and `units` are as `quantize_rows` made them, `weights` the bytes as `read` put them.
        """
        var count = self.n - block * COLUMNS
        var scales = self.scales(block)

        @always_inline
        def tile[rows: Int](i: Int) {imm}:
            var products = self.products[rows](words.unsafe_offset(i * self.k), weights, block)
            comptime for a in range(rows):
                var logits = products[a] * (scales * units[unsafe_offset=i + a])
                store_part(y.unsafe_offset((i + a) * stride), logits, count)

        var i = 0
        comptime for kind in range(len(TILES)):
            comptime rows = TILES[kind]
            while i + rows <= m:
                tile[rows](i)
                i += rows


@always_inline
def embedding_of(
    halves: Pointer[UInt8, _],
    rests: Pointer[Int8, _],
    has_rests: Bool,
    scale: Pointer[Float32, _],
    n: Int,
    k: Int,
) -> Embedding:
    """The embedding whose planes of halves, upper and lower, follow each other."""
    var low = halves.unsafe_offset(blocks_of(n) * COLUMNS * k // 2)
    return Embedding(
        untracked(halves), untracked(low), untracked(rests), has_rests, untracked(scale), n, k
    )
