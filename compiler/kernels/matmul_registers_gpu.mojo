"""What a group of warps adds to a tile of sums in its registers before it stores them.

A product of the tensor cores leaves a thread two neighbours of every eight outputs, of two rows.
Four lanes have all eight: they turn what they have by words of two values, so that each has eight
neighbours to store at once, 16 bytes. The residual, read so, is turned the other way.
"""

from max.gpu import WARP_SIZE, thread_idx
from max.gpu.primitives import warp
from std.memory import bitcast
from std.sys._assembly import inlined_assembly

from .linear import BIAS_GELU, BIAS_RESIDUAL, gelu_ratio
from .matmul_tiles_gpu import Outputs

comptime F32 = DType.float32
comptime U32 = DType.uint32
comptime GROUP_ROWS = 64
"""Rows of a product."""
comptime ACROSS = 32
"""Outputs that four lanes turn at a time."""
comptime TAKEN = 8
"""Neighbours that a thread stores at once."""

comptime Words = SIMD[U32, 4]


@always_inline
def turned(var words: Words, lane: Int) -> Words:
    """Word i of lane q of four becomes word q of lane i."""
    comptime for step in range(2):
        comptime distance = 1 << step
        var upper = lane & distance != 0
        comptime for pair in range(2):
            comptime low = pair * 2 if distance == 1 else pair
            comptime high = low + distance
            var kept = words[high] if upper else words[low]
            var given = words[low] if upper else words[high]
            var got = warp.shuffle_xor(given, UInt32(distance))
            words[low] = got if upper else kept
            words[high] = kept if upper else got
    return words


@always_inline
def quick_gelu[width: Int](x: SIMD[F32, width]) -> SIMD[F32, width]:
    """As `gelu`, with the GPU's own reciprocal, good to 23 bits."""
    var ratio = gelu_ratio[width](x)
    var quotient = SIMD[F32, width](0)
    comptime for i in range(width):
        quotient[i] = ratio.above[i] * inlined_assembly[
            "rcp.approx.ftz.f32 $0, $1;", Float32, constraints="=f,f", has_side_effect=False
        ](ratio.below[i])
    return x * (quotient + 0.5)


struct Epilogue[T: DType, kind: Int, tall: Int, side: Int](Movable):
    """A thread's share of one tile of y, `tall` rows by `side` outputs; TAKEN divides `outputs`.

    Making one begins to read the residual, which takes longer than the sums.
    """

    comptime RUNS = Self.side // ACROSS
    comptime READS = Self.tall // GROUP_ROWS * Self.RUNS * 2 if Self.kind == BIAS_RESIDUAL else 1

    var first_row: Int
    var rows: Int
    var first_output: Int
    var outputs: Int
    var lane: Int
    var read: Array[SIMD[Self.T, TAKEN], length=Self.READS]

    @always_inline
    def __init__(
        out self,
        first_row: Int,
        rows: Int,
        first_output: Int,
        outputs: Int,
        residual: Pointer[Scalar[Self.T], ImmutAnyOrigin],
    ):
        self.lane = Int(thread_idx.x) % WARP_SIZE
        var own_warp = Int(thread_idx.x) // WARP_SIZE % 4
        self.first_row = first_row + own_warp * 16 + self.lane // 4
        self.rows = rows
        self.first_output = first_output
        self.outputs = outputs
        self.read = Array[SIMD[Self.T, TAKEN], length=Self.READS](fill=SIMD[Self.T, TAKEN](0))
        comptime if Self.kind == BIAS_RESIDUAL:
            comptime for r in range(Self.READS):
                # Past the ends something is read that is not used.
                var row = min(self.row[r // 2 // Self.RUNS, r % 2](), rows - 1)
                var output = min(self.output[r // 2 % Self.RUNS](), outputs - TAKEN)
                self.read[r] = residual.unsafe_load[width=TAKEN, alignment=16](
                    row * outputs + output
                )

    @always_inline
    def row[part: Int, half: Int](self) -> Int:
        """A row of which this thread has sums: one of the first eight of a warp's 16, or below."""
        return self.first_row + part * GROUP_ROWS + half * 8

    @always_inline
    def output[run: Int](self) -> Int:
        """The first of the outputs that this thread stores."""
        return self.first_output + run * ACROSS + self.lane % 4 * TAKEN

    @always_inline
    def store[part: Int, sums_held: Int](
        self,
        sums: SIMD[F32, sums_held],
        y: Outputs[Self.T],
        bias: Pointer[Float32, ImmutAnyOrigin],
    ):
        """Store a product's sums with what is added to them."""
        var to = y.of(self.first_output)
        comptime for run in range(Self.RUNS):
            # Four times eight outputs, each two rows of two neighbours.
            var made = sums.slice[16, offset=run * 16]()
            comptime for i in range(4):
                var output = self.first_output + run * ACROSS + i * 8 + self.lane % 4 * 2
                var shift = bias.unsafe_load[width=2, alignment=8](min(output, self.outputs - 2))
                comptime for e in range(4):
                    made[i * 4 + e] += shift[e % 2]
            comptime if Self.kind == BIAS_GELU:
                made = quick_gelu[16](made)
            comptime for half in range(2):
                var words = Words(0)
                comptime if Self.kind == BIAS_RESIDUAL:
                    var read = self.read[(part * Self.RUNS + run) * 2 + half]
                    words = turned(bitcast[U32, 4](read), self.lane)
                comptime for i in range(4):
                    var pair = made.slice[2, offset=i * 4 + half * 2]()
                    comptime if Self.kind == BIAS_RESIDUAL:
                        pair += bitcast[Self.T, 2](words[i]).cast[F32]()
                    words[i] = bitcast[U32, 1](pair.cast[Self.T]())
                var stored = bitcast[Self.T, TAKEN](turned(words, self.lane))
                var row = self.row[part, half]()
                var output = self.output[run]()
                if row < self.rows and output < self.outputs:
                    to.unsafe_store[alignment=16](row * y.width + output, stored)
