"""A stand-in on a CPU for choose_gpu.mojo: the CPU's own choice."""

import extensibility
from extensibility import InputTensor, OutputTensor

from .choose import Choose

comptime F32 = DType.float32
comptime I32 = DType.int32


@extensibility.register("mwc_gpu_choose")
struct GPUChoose:
    @staticmethod
    def execute[target: StaticString](
        tokens: OutputTensor[dtype=I32, rank=2, ...],
        logprobs: OutputTensor[dtype=F32, rank=2, ...],
        found: OutputTensor[dtype=F32, rank=3, ...],
        logits: InputTensor[dtype=F32, rank=2, ...],
        suppress: InputTensor[dtype=F32, rank=2, ...],
        states: InputTensor[dtype=I32, rank=2, ...],
        temperatures: InputTensor[dtype=F32, rank=1, ...],
        uniforms: InputTensor[dtype=F32, rank=1, ...],
        ids: InputTensor[dtype=I32, rank=1, ...],
    ) raises:
        Choose.execute[target](
            tokens, logprobs, logits, suppress, states, temperatures, uniforms, ids
        )
