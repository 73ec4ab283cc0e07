"""The logarithm of the power in each mel band of each frame of samples, on CPUs."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import log
from std.memory import stack_allocation

from .linear import F32, LINE, larger
from .parallel import share
from .spectrum import LANES, Lanes, place_of, power_spectrum, powers_of

comptime TERMS = 25
"""Sixteens of a frame: 400 samples (openai/whisper audio.py, N_FFT)."""
comptime BINS = TERMS * LANES // 2 + 1
comptime POWERS = powers_of(TERMS)
comptime TOGETHER = 4
"""Frames that a band's weights are loaded for at a time."""
comptime AT_ONCE = 10 * TOGETHER
"""Frames that a thread takes at a time."""
comptime FLOOR = 1e-10
"""The least power before the logarithm (openai/whisper audio.py, `clamp(min=1e-10)`)."""
comptime PER_LOG = 0.43429448190325176
"""log10(e)."""


struct Bands(Movable):
    """Which bins each sixteen of bands takes anything from, and where their powers stand."""

    var first: List[Int]
    var last: List[Int]
    var places: List[Int]

    def __init__(out self, weights: Pointer[Float32, _], n_mels: Int):
        """`weights` [bins, n_mels]; a sixteen's bins are those of [first, last)."""
        self.first = List[Int]()
        self.last = List[Int]()
        self.places = List[Int]()
        for band in range(0, n_mels, LANES):
            var first = BINS
            var last = 0
            for bin in range(BINS):
                var taken = weights.unsafe_load[width=LANES](bin * n_mels + band)
                if taken.reduce_max() > 0:
                    first = min(first, bin)
                    last = bin + 1
            self.first.append(min(first, last))
            self.last.append(last)
        for bin in range(BINS):
            self.places.append(place_of(bin, TERMS))


@always_inline
def add_bands[count: Int](
    y: Pointer[mut=True, Float32, _],
    power: Pointer[Float32, _],
    weights: Pointer[Float32, _],
    bands: Bands,
):
    """y[count, n_mels] = the logarithms of what the bands take of power[count, POWERS]."""
    var n_mels = len(bands.first) * LANES
    var places = bands.places.unsafe_ptr()
    for sixteen in range(len(bands.first)):
        var band = sixteen * LANES
        var sums = Array[Lanes, length=count](fill=Lanes(0))
        for bin in range(bands.first[sixteen], bands.last[sixteen]):
            var taken = weights.unsafe_load[width=LANES](bin * n_mels + band)
            var place = places[unsafe_offset=bin]
            comptime for i in range(count):
                sums[i] = taken.fma(Lanes(power[unsafe_offset=i * POWERS + place]), sums[i])
        comptime for i in range(count):
            var logarithm = log(larger[LANES](sums[i], Lanes(FLOOR))) * PER_LOG
            y.unsafe_store(i * n_mels + band, logarithm)


@extensibility.register("mwc_log_mel")
struct LogMel:
    """log_mel f32 [b, t, n_mels] = log10(max(bands · power, 1e-10)) of frame i of samples[b], i < t.

    A frame is 400 samples, the next one is `hop` further on. `factors` are spectrum.mojo's; `weights`
    [201, n_mels] say what each band takes of each bin; 16 divides n_mels.
    """

    @staticmethod
    def execute[target: StaticString, hop: Int](
        log_mel: OutputTensor[dtype=F32, rank=3, ...],
        samples: InputTensor[dtype=F32, rank=2, ...],
        factors: InputTensor[dtype=F32, rank=2, ...],
        weights: InputTensor[dtype=F32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var frames = log_mel.dim_size(1)
        var n_mels = log_mel.dim_size(2)
        var length = samples.dim_size(1)
        var all_frames = log_mel.dim_size(0) * frames
        var goal = log_mel.unsafe_ptr()
        var sample_ptr = samples.unsafe_ptr()
        var factor_ptr = factors.unsafe_ptr()
        var weight_ptr = weights.unsafe_ptr()
        var bands = Bands(weight_ptr, n_mels)

        def some_frames(item: Int) raises {imm}:
            var power = stack_allocation[TOGETHER * POWERS, Float32, alignment=LINE]()
            var first = item * AT_ONCE
            var last = min(first + AT_ONCE, all_frames)
            var done = first
            while done < last:
                var count = TOGETHER if done + TOGETHER <= last else 1
                for i in range(count):
                    var at = done + i
                    power_spectrum[TERMS](
                        power.unsafe_offset(i * POWERS),
                        sample_ptr.unsafe_offset(at // frames * length + at % frames * hop),
                        factor_ptr,
                    )
                var y = goal.unsafe_offset(done * n_mels)
                if count == TOGETHER:
                    add_bands[TOGETHER](y, power, weight_ptr, bands)
                else:
                    add_bands[1](y, power, weight_ptr, bands)
                done += count

        share(some_frames, (all_frames + AT_ONCE - 1) // AT_ONCE)
        _ = bands^
