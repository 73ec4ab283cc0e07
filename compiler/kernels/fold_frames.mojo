"""Frames of samples folded about their middle, for half of a DFT's work.

A DFT's cosines are even about the middle of a frame and its sines odd, and so is nothing lost where
samples that stand opposite each other are added, for the real parts, and subtracted, for the
imaginary ones: `mwc.compiler.mel.folded_dft` is what these are multiplied by.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .parallel import share

comptime F32 = DType.float32
comptime LANES = 8
comptime AT_ONCE = 50
"""Frames that a thread takes at a time."""


@extensibility.register("mwc_fold_frames")
struct FoldFrames:
    """Sums and differences f32 [b, t, half]: x[n] ± x[2 half - n] for n = 1 … half.

    x is frame i, whose 2 half samples start at samples[b, i * hop]; 8 divides half.
    """

    @staticmethod
    def execute[target: StaticString, hop: Int](
        sums: OutputTensor[dtype=F32, rank=3, ...],
        differences: OutputTensor[dtype=F32, rank=3, ...],
        samples: InputTensor[dtype=F32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var frames = sums.dim_size(1)
        var half = sums.dim_size(2)
        var length = samples.dim_size(1)
        var all_frames = sums.dim_size(0) * frames
        var sum_ptr = sums.unsafe_ptr()
        var difference_ptr = differences.unsafe_ptr()
        var sample_ptr = samples.unsafe_ptr()

        def fold(item: Int) raises {imm}:
            for i in range(item * AT_ONCE, min((item + 1) * AT_ONCE, all_frames)):
                var frame = sample_ptr.unsafe_offset(i // frames * length + i % frames * hop)
                for n in range(1, half + 1, LANES):
                    var x = frame.unsafe_load[width=LANES](n)
                    var opposite = frame.unsafe_load[width=LANES](2 * half - n - LANES + 1)
                    opposite = opposite.reversed()
                    sum_ptr.unsafe_store(i * half + n - 1, x + opposite)
                    difference_ptr.unsafe_store(i * half + n - 1, x - opposite)

        share(fold, (all_frames + AT_ONCE - 1) // AT_ONCE)
