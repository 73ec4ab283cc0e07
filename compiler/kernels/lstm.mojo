"""The speech detector's LSTM and its output on CPUs, frame after frame: the only part with a memory.

A file's frames are a sequence, with a state of its own; those of several files follow one another.

Every frame multiplies the state by the whole recurrent matrix, 256 KB, so a frame takes as long as
streaming that from the second-level cache. Units go in blocks of 16: the four gates of a block are
two panels (vad.mojo), and its new state follows at once from them.
"""

from .linear import F32, WIDTH, sigmoid, tanh
from .pointers import Numbers, Values
from .vad import GATES, HALF, PANEL

comptime Vector = SIMD[F32, WIDTH]
comptime UNITS = GATES // 4
comptime GATE_BLOCK = 4 * HALF
"""Gates of 16 units: input, forget, cell, output, 16 each (torch.nn.LSTMCell's order)."""
comptime MATRIX_BLOCK = 2 * UNITS * PANEL
"""Values of the two panels that make them."""
comptime TOGETHER = 2
"""Registers of units computed together: with four gates each they hide what an addition takes."""


@always_inline
def advance(
    next: Pointer[mut=True, Float32, _],
    cells: Pointer[mut=True, Float32, _],
    hidden: Pointer[Float32, _],
    gates: Pointer[Float32, _],
    recurrent: Pointer[Float32, _],
):
    """One frame: next[128] = the new hidden state; cells[128] become the new ones."""
    comptime parts = HALF // WIDTH
    for pair in range(UNITS // WIDTH // TOGETHER):
        var sums = Array[Vector, length=4 * TOGETHER](fill=Vector(0))
        comptime for i in range(TOGETHER):
            var part = pair * TOGETHER + i
            var own = gates.unsafe_offset(part // parts * GATE_BLOCK + part % parts * WIDTH)
            comptime for gate in range(4):
                sums[4 * i + gate] = own.unsafe_load[width=WIDTH](gate * HALF)
        for k in range(UNITS):
            var h = Vector(hidden[unsafe_offset=k])
            comptime for i in range(TOGETHER):
                var part = pair * TOGETHER + i
                var first = recurrent.unsafe_offset(
                    part // parts * MATRIX_BLOCK + part % parts * WIDTH + k * PANEL
                )
                comptime for gate in range(4):
                    comptime at = gate // 2 * UNITS * PANEL + gate % 2 * HALF
                    sums[4 * i + gate] = first.unsafe_load[width=WIDTH](at).fma(h, sums[4 * i + gate])
        comptime for i in range(TOGETHER):
            var unit = (pair * TOGETHER + i) * WIDTH
            var kept = sigmoid(sums[4 * i + 1]) * cells.unsafe_load[width=WIDTH](unit)
            var cell = sigmoid(sums[4 * i]).fma(tanh(sums[4 * i + 2]), kept)
            cells.unsafe_store(unit, cell)
            next.unsafe_store(unit, sigmoid(sums[4 * i + 3]) * tanh(cell))


@always_inline
def probability(
    hidden: Pointer[Float32, _], weight: Pointer[Float32, _], bias: Float32
) -> Float32:
    """sigmoid(relu(hidden) · weight + bias): how likely the frame holds speech."""
    var sums = Vector(0)
    for unit in range(0, UNITS, WIDTH):
        var active = max(hidden.unsafe_load[width=WIDTH](unit), Vector(0))
        sums = active.fma(weight.unsafe_load[width=WIDTH](unit), sums)
    return sigmoid[1](sums.reduce_add() + bias)


@fieldwise_init
struct Memory(Copyable, Movable):
    """The LSTM's weights, and what is known of the sequences: counts, states before and after."""

    var recurrent: Values
    var weight: Values
    var bias: Values
    var counts: Pointer[Int32, ImmUntrackedOrigin]
    var before: Values
    var after: Numbers


struct Lstm(Movable):
    """The state of the sequence that it is at."""

    var memory: Memory
    var hidden: List[Float32]
    var next: List[Float32]
    var cells: List[Float32]
    var sequence: Int
    var frame: Int
    var end: Int

    def __init__(out self, memory: Memory):
        """Before the first frame of the first sequence."""
        self.memory = memory.copy()
        self.hidden = List[Float32](length=UNITS, fill=0)
        self.next = List[Float32](length=UNITS, fill=0)
        self.cells = List[Float32](length=UNITS, fill=0)
        self.sequence = -1
        self.frame = 0
        self.end = 0

    def begin(mut self):
        """The next sequence."""
        self.sequence += 1
        self.end = self.frame + Int(self.memory.counts[unsafe_offset=self.sequence])
        var own = self.memory.before.unsafe_offset(self.sequence * 2 * UNITS)
        for unit in range(UNITS):
            self.hidden[unit] = own[unsafe_offset=unit]
            self.cells[unit] = own[unsafe_offset=UNITS + unit]

    def go_on(
        mut self,
        probabilities: Pointer[mut=True, Float32, _],
        gates: Pointer[Float32, _],
        last: Int,
    ):
        """All frames before `last`; both pointers are to the first frame of all."""
        while self.frame < last:
            if self.frame == self.end:
                self.begin()
            var hidden = self.hidden.unsafe_ptr()
            var next = self.next.unsafe_ptr()
            advance(
                next, self.cells.unsafe_ptr(), hidden, gates.unsafe_offset(self.frame * GATES),
                self.memory.recurrent,
            )
            probabilities[unsafe_offset=self.frame] = probability(
                next, self.memory.weight, self.memory.bias[unsafe_offset=0]
            )
            swap(self.hidden, self.next)
            self.frame += 1
            if self.frame == self.end:
                var own = self.memory.after.unsafe_offset(self.sequence * 2 * UNITS)
                for unit in range(UNITS):
                    own[unsafe_offset=unit] = self.hidden[unit]
                    own[unsafe_offset=UNITS + unit] = self.cells[unit]
