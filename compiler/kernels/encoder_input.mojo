"""What the encoder begins with, on CPUs: the normalised log-mel."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .linear import F32, WIDTH, larger
from .parallel import share

comptime I32 = DType.int32
comptime CLAMP = 8.0
"""Log-mel values are at most this far below the maximum (openai/whisper audio.py)."""
comptime FRAMES = 50
"""Frames that a thread takes at a time."""


@extensibility.register("mwc_normalise")
struct Normalise:
    """y = (max(x, top - 8) + 4) / 4 of log-mel frames x[b, t, n_mels], 0 from n_frames on.

    Inputs: x, tops float32 [b], each file's maximum, n_frames int32 [b], frames of the window that
    are of the file. openai/whisper pads the normalised frames (transcribe.py, `pad_or_trim`), which
    is not the same as silent samples.
    """

    @staticmethod
    def execute[target: StaticString](
        y: OutputTensor[dtype=F32, rank=3, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        tops: InputTensor[dtype=F32, rank=1, ...],
        n_frames: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var t = x.dim_size(1)
        var n_mels = x.dim_size(2)
        var runs = (t + FRAMES - 1) // FRAMES
        var y_ptr = y.unsafe_ptr()
        var x_ptr = x.unsafe_ptr()
        var top_ptr = tops.unsafe_ptr()
        var held_ptr = n_frames.unsafe_ptr()

        def frames_of(item: Int) {var t, var n_mels, var runs, var y_ptr, var x_ptr, var top_ptr, var held_ptr}:
            var window = item // runs
            var first = item % runs * FRAMES
            var begin = (window * t + first) * n_mels
            var count = min(FRAMES, t - first) * n_mels
            var held = max(0, min(count, (Int(held_ptr[unsafe_offset=window]) - first) * n_mels))
            var floor = top_ptr[unsafe_offset=window] - CLAMP
            var vectors = held // WIDTH * WIDTH
            for i in range(begin, begin + vectors, WIDTH):
                var values = larger(x_ptr.unsafe_load[width=WIDTH](i), SIMD[F32, WIDTH](floor))
                y_ptr.unsafe_store(i, (values + 4.0) / 4.0)
            for i in range(begin + vectors, begin + held):
                y_ptr[unsafe_offset=i] = (max(x_ptr[unsafe_offset=i], floor) + 4.0) / 4.0
            for i in range(begin + held, begin + count):
                y_ptr[unsafe_offset=i] = 0

        share(frames_of, x.dim_size(0) * runs)
