"""A stand-in on a CPU for lstm_gpu.mojo: the CPU's own LSTM, after all frames' gates."""

import extensibility
from extensibility import InputTensor, OutputTensor

from .lstm import Lstm, Memory
from .pointers import untracked, untracked_mut

comptime F32 = DType.float32


@extensibility.register("mwc_gpu_lstm")
struct GPULstm:
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
    ) raises:
        var memory = Memory(
            untracked(recurrent.unsafe_ptr()), untracked(weight.unsafe_ptr()),
            untracked(bias.unsafe_ptr()), untracked(counts.unsafe_ptr()),
            untracked(state.unsafe_ptr()), untracked_mut(new_state.unsafe_ptr()),
        )
        var lstm = Lstm(memory)
        lstm.go_on(probabilities.unsafe_ptr(), gates.unsafe_ptr(), gates.dim_size(0))
