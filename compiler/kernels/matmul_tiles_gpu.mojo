"""Tiles of matrices in a GPU's shared memory: how they come in, and how a tile of sums goes out.

A tile has DEPTH terms of some rows; some tiles are under way at a time, in the stages of a ring. A
row is as long as all banks together; of its eight pieces of 16 bytes each is where the last three
bits of the row's number put it, so that eight rows' pieces of one column are in different banks.
"""

from max.gpu import WARP_SIZE, thread_idx
from max.gpu.memory import AddressSpace, async_copy

from .linear import BIAS_GELU, BIAS_RESIDUAL, NONE, gelu

comptime F32 = DType.float32
comptime DEPTH = 64
"""Terms of a tile."""
comptime PIECE = 8
"""Neighbours that are copied at once, 16 bytes."""
comptime PIECES = DEPTH // PIECE
comptime BETWEEN = 8
"""Values between the rows of sums in shared memory: rows next to each other start at other banks."""


@fieldwise_init
struct Outputs[T: DType, origin: MutOrigin = MutAnyOrigin](Copyable, Movable):
    """Where a product goes: one matrix [m, n], or one for each third of its outputs, [m, n / 3].

    A tile's outputs are all of one third.
    """

    var first: Pointer[Scalar[Self.T], Self.origin]
    var second: Pointer[Scalar[Self.T], Self.origin]
    var third: Pointer[Scalar[Self.T], Self.origin]
    var width: Int

    @always_inline
    def of(self, output: Int) -> Pointer[Scalar[Self.T], Self.origin]:
        """The first row of the matrix that an output is in, from where output 0 would be."""
        var which = output // self.width
        var matrix = self.first if which == 0 else self.second if which == 1 else self.third
        return matrix.unsafe_offset(-which * self.width)


@always_inline
def place(row: Int, piece: Int) -> Int:
    """Where a piece of a tile's row is in shared memory."""
    return row * DEPTH + (piece ^ (row & (PIECES - 1))) * PIECE


@always_inline
def fetch[T: DType, //, side: Int, threads: Int](
    to: Pointer[mut=True, Scalar[T], _, address_space=AddressSpace.SHARED],
    matrix: Pointer[Scalar[T], ImmutAnyOrigin],
    first_row: Int,
    rows: Int,
    first_term: Int,
    terms: Int,
):
    """Begin to copy a tile of `side` rows from a matrix [rows, terms]; past its ends are zeros.

    All `threads` take part.
    """
    comptime for r in range(side * PIECES // threads):
        var i = Int(thread_idx.x) + r * threads
        var row = first_row + i // PIECES
        var term = first_term + i % PIECES * PIECE
        var held = row < rows and term < terms
        async_copy[16, fill=Scalar[T](0)](
            matrix.unsafe_offset(row * terms + term if held else 0).unsafe_address_space_cast[
                AddressSpace.GLOBAL
            ](),
            to.unsafe_offset(place(i // PIECES, i % PIECES)),
            Int32(16) if held else Int32(0),
        )


@always_inline
def put_sums[side: Int](
    tile: Pointer[mut=True, Float32, _, address_space=AddressSpace.SHARED],
    row: Int,
    column: Int,
    sums: SIMD[F32, 4],
):
    """Put what a lane has of a tensor core's 16 x 8 sums, from `row` and `column` on."""
    var lane = Int(thread_idx.x) % WARP_SIZE
    var at = (row + lane // 4) * (side + BETWEEN) + column + lane % 4 * 2
    tile.unsafe_store[alignment=8](at, sums.slice[2, offset=0]())
    tile.unsafe_store[alignment=8](at + 8 * (side + BETWEEN), sums.slice[2, offset=2]())


@always_inline
def store_tile[T: DType, //, epilogue: Int, side: Int, threads: Int](
    tile: Pointer[Float32, _, address_space=AddressSpace.SHARED],
    y: Outputs[T],
    bias: Pointer[Float32, ImmutAnyOrigin],
    residual: Pointer[Scalar[T], ImmutAnyOrigin],
    first_row: Int,
    rows: Int,
    first_output: Int,
    outputs: Int,
):
    """Store a tile of sums with what the epilogue adds; threads next to each other write neighbours.

    PIECE divides `outputs`.
    """
    comptime PER_ROW = side // PIECE
    var to = y.of(first_output)
    comptime for r in range(side * PER_ROW // threads):
        var i = (Int(thread_idx.x) + r * threads) // PER_ROW
        var j = (Int(thread_idx.x) + r * threads) % PER_ROW * PIECE
        if first_row + i < rows and first_output + j < outputs:
            var sum = tile.unsafe_load[width=PIECE, alignment=16](i * (side + BETWEEN) + j)
            var column = first_output + j
            comptime if epilogue != NONE:
                sum += bias.unsafe_load[width=PIECE, alignment=16](column)
            comptime if epilogue == BIAS_GELU:
                sum = gelu[PIECE](sum)
            comptime if epilogue == BIAS_RESIDUAL:
                var at = (first_row + i) * outputs + column
                sum += residual.unsafe_load[width=PIECE, alignment=16](at).cast[F32]()
            to.unsafe_store[alignment=16]((first_row + i) * y.width + column, sum.cast[T]())
