"""The speech detector's LSTM and its output, frame after frame: the only part with a memory.

A file's frames are a sequence, with a state of its own; one call takes those of several files.

Every frame multiplies the state by the whole recurrent matrix, 256 KB, so a frame takes as long as
streaming that from the second-level cache. Units go in blocks of 16: the four gates of a block are
two panels (vad.mojo), and its new state follows at once from them.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .linear import WIDTH, sigmoid, tanh
from .lstm_gpu import lstm_gpu
from .vad import GATES, HALF, PANEL

comptime F32 = DType.float32
comptime Vector = SIMD[F32, WIDTH]
comptime UNITS = GATES // 4
comptime GATE_BLOCK = 4 * HALF
"""Gates of 16 units: input, forget, cell, output, 16 each (torch.nn.LSTMCell's order)."""
comptime MATRIX_BLOCK = 2 * UNITS * PANEL
"""Values of the two panels that make them."""


@always_inline
def advance(
    next: Pointer[mut=True, Float32, _],
    cells: Pointer[mut=True, Float32, _],
    hidden: Pointer[Float32, _],
    gates: Pointer[Float32, _],
    recurrent: Pointer[Float32, _],
):
    """One frame: next[128] = the new hidden state; cells[128] become the new ones."""
    for block in range(UNITS // HALF):
        comptime for part in range(HALF // WIDTH):
            var first = recurrent.unsafe_offset(block * MATRIX_BLOCK + part * WIDTH)
            var second = first.unsafe_offset(UNITS * PANEL)
            var sums = Array[Vector, length=4](fill=Vector(0))
            comptime for gate in range(4):
                sums[gate] = gates.unsafe_load[width=WIDTH](
                    block * GATE_BLOCK + gate * HALF + part * WIDTH
                )
            for k in range(UNITS):
                var h = Vector(hidden[unsafe_offset=k])
                comptime for half in range(2):
                    var at = k * PANEL + half * HALF
                    sums[half] = first.unsafe_load[width=WIDTH](at).fma(h, sums[half])
                    sums[2 + half] = second.unsafe_load[width=WIDTH](at).fma(h, sums[2 + half])
            var unit = block * HALF + part * WIDTH
            var kept = sigmoid(sums[1]) * cells.unsafe_load[width=WIDTH](unit)
            var cell = sigmoid(sums[0]).fma(tanh(sums[2]), kept)
            cells.unsafe_store(unit, cell)
            next.unsafe_store(unit, sigmoid(sums[3]) * tanh(cell))


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


@extensibility.register("mwc_lstm")
struct Lstm:
    """probabilities[frames] of gates[frames, 512], and new_state[sequences, 2, 128].

    Frames are those of all sequences, one sequence after the other, each in order of time;
    counts[sequences] tells how many each has, at least one, and they add up to all frames. `state`
    is the hidden state and the cells before a sequence's first frame, `new_state` after its last.
    """

    @staticmethod
    def execute[target: StaticString](
        probabilities: OutputTensor[dtype=F32, rank=1, ...],
        new_state: OutputTensor[dtype=F32, rank=3, ...],
        gates: InputTensor[dtype=F32, rank=2, ...],
        state: InputTensor[dtype=F32, rank=3, ...],
        counts: InputTensor[dtype=DType.int32, rank=1, ...],
        recurrent: InputTensor[dtype=F32, rank=3, ...],
        weight: InputTensor[dtype=F32, rank=1, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime if target == "gpu":
            lstm_gpu(probabilities, new_state, gates, state, counts, recurrent, weight, bias, ctx)
            return
        var hidden_list = List[Float32](length=UNITS, fill=0)
        var next_list = List[Float32](length=UNITS, fill=0)
        var cell_list = List[Float32](length=UNITS, fill=0)
        var hidden = hidden_list.unsafe_ptr()
        var next = next_list.unsafe_ptr()
        var cells = cell_list.unsafe_ptr()
        var state_ptr = state.unsafe_ptr()
        var new_state_ptr = new_state.unsafe_ptr()
        var count_ptr = counts.unsafe_ptr()
        var gate_ptr = gates.unsafe_ptr()
        var recurrent_ptr = recurrent.unsafe_ptr()
        var weight_ptr = weight.unsafe_ptr()
        var probability_ptr = probabilities.unsafe_ptr()
        var shift = bias.unsafe_ptr()[unsafe_offset=0]
        var first = 0
        for sequence in range(counts.dim_size(0)):
            var own = sequence * 2 * UNITS
            for unit in range(UNITS):
                hidden[unsafe_offset=unit] = state_ptr[unsafe_offset=own + unit]
                cells[unsafe_offset=unit] = state_ptr[unsafe_offset=own + UNITS + unit]
            var end = first + Int(count_ptr[unsafe_offset=sequence])
            for f in range(first, end):
                advance(next, cells, hidden, gate_ptr.unsafe_offset(f * GATES), recurrent_ptr)
                for unit in range(0, UNITS, WIDTH):
                    hidden.unsafe_store(unit, next.unsafe_load[width=WIDTH](unit))
                probability_ptr[unsafe_offset=f] = probability(hidden, weight_ptr, shift)
            first = end
            for unit in range(UNITS):
                new_state_ptr[unsafe_offset=own + unit] = hidden[unsafe_offset=unit]
                new_state_ptr[unsafe_offset=own + UNITS + unit] = cells[unsafe_offset=unit]
        _ = hidden_list^
        _ = next_list^
        _ = cell_list^
