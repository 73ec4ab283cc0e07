"""The speech detector on CPUs: the LSTM follows close behind what lies before it.

Frames are independent of each other up to the LSTM's gates, and any thread may find those of a
block of them. The LSTM goes from frame to frame, in the first thread, which helps with the gates
where those that it wants next are not there yet.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.atomic import Atomic
from std.runtime import parallelism_level

from .linear import F32
from .lstm import Lstm, Memory
from .parallel import LINE, wait_for
from .pointers import untracked, untracked_mut
from .vad import FRAMES, GATES, SAMPLES, Detector, Layer, find_gates


@extensibility.register("mwc_speech")
struct Speech:
    """probabilities[frames] of samples[frames, 576], and new_state[sequences, 2, 128].

    Frames are those of all sequences, one sequence after the other, each in order of time;
    counts[sequences] tells how many each has, at least one, and they add up to all frames. `state`
    is the hidden state and the cells before a sequence's first frame, `new_state` after its last.
    The other inputs are the weights and biases in the order they are used; see vad_weights.py.
    """

    @staticmethod
    def execute[target: StaticString](
        probabilities: OutputTensor[dtype=F32, rank=1, ...],
        new_state: OutputTensor[dtype=F32, rank=3, ...],
        samples: InputTensor[dtype=F32, rank=2, ...],
        state: InputTensor[dtype=F32, rank=3, ...],
        counts: InputTensor[dtype=DType.int32, rank=1, ...],
        factors: InputTensor[dtype=F32, rank=2, ...],
        conv1: InputTensor[dtype=F32, rank=3, ...],
        bias1: InputTensor[dtype=F32, rank=1, ...],
        conv2: InputTensor[dtype=F32, rank=3, ...],
        bias2: InputTensor[dtype=F32, rank=1, ...],
        conv3: InputTensor[dtype=F32, rank=3, ...],
        bias3: InputTensor[dtype=F32, rank=1, ...],
        conv4: InputTensor[dtype=F32, rank=3, ...],
        bias4: InputTensor[dtype=F32, rank=1, ...],
        lstm: InputTensor[dtype=F32, rank=3, ...],
        lstm_bias: InputTensor[dtype=F32, rank=1, ...],
        recurrent: InputTensor[dtype=F32, rank=3, ...],
        weight: InputTensor[dtype=F32, rank=1, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var detector = Detector(
            untracked(factors.unsafe_ptr()),
            Layer(untracked(conv1.unsafe_ptr()), untracked(bias1.unsafe_ptr())),
            Layer(untracked(conv2.unsafe_ptr()), untracked(bias2.unsafe_ptr())),
            Layer(untracked(conv3.unsafe_ptr()), untracked(bias3.unsafe_ptr())),
            Layer(untracked(conv4.unsafe_ptr()), untracked(bias4.unsafe_ptr())),
            Layer(untracked(lstm.unsafe_ptr()), untracked(lstm_bias.unsafe_ptr())),
        )
        var memory = Memory(
            untracked(recurrent.unsafe_ptr()), untracked(weight.unsafe_ptr()),
            untracked(bias.unsafe_ptr()), untracked(counts.unsafe_ptr()),
            untracked(state.unsafe_ptr()), untracked_mut(new_state.unsafe_ptr()),
        )
        hear(probabilities.unsafe_ptr(), samples.unsafe_ptr(), samples.dim_size(0), detector, memory)


def hear(
    probabilities: Pointer[mut=True, Float32, _],
    samples: Pointer[Float32, _],
    frames: Int,
    detector: Detector,
    memory: Memory,
) raises:
    """Find all frames' probabilities and the sequences' states after them."""
    var blocks = (frames + FRAMES - 1) // FRAMES
    var gate_list = List[Float32](unsafe_uninit_length=frames * GATES)
    var counter_list = List[Int64](length=(1 + blocks) * LINE, fill=0)
    var gates = gate_list.unsafe_ptr()
    var claimed = counter_list.unsafe_ptr()
    var done = claimed.unsafe_offset(LINE)

    def find_block() {imm} -> Bool:
        """The gates of a block that nobody is at; whether there was one."""
        var block = Int(Atomic[Int64].fetch_add(claimed, Int64(1)))
        if block >= blocks:
            return False
        var first = block * FRAMES
        find_gates(
            gates.unsafe_offset(first * GATES), samples.unsafe_offset(first * SAMPLES),
            min(FRAMES, frames - first), detector,
        )
        _ = Atomic[Int64].fetch_add(done.unsafe_offset(block * LINE), Int64(1))
        return True

    def task(t: Int) {imm}:
        if t > 0:
            while find_block():
                pass
            return
        var lstm = Lstm(memory)
        for block in range(blocks):
            var ready = done.unsafe_offset(block * LINE)
            while Atomic[Int64].load(ready) == 0:
                if not find_block():
                    wait_for(ready, 1)
            lstm.go_on(probabilities, gates, min((block + 1) * FRAMES, frames))

    var tasks = min(parallelism_level(), blocks)
    if tasks <= 1:
        task(0)
    else:
        sync_parallelize(task, tasks)
    _ = gate_list^
    _ = counter_list^
