"""The power of each bin of a short frame's spectrum: a DFT in two steps (Cooley and Tukey, 1965).

Of n = 16 R samples, sample 16 a + b and bin k + R j, b and j below 16, k below R:

    X[k + R j] = sum over b of W16[b j] · Wn[b k] · (sum over a of WR[a k] · x[16 a + b])

with Wm[i] = exp(-2 pi i sqrt(-1) / m). The first step has a b in each lane, the second a j. Samples
are real, so that of R values of k those up to R / 2 do: the other bins are mirrored. Both steps are
folded: what stands opposite each other, a and R - a, b and 16 - b, meets the same cosine, and sines
of opposite signs.

The factors come as rows of 16 from mwc/compiler/spectrum.py: the frame's window, R of them; of each
k two rows for the first step, cosines of a = 0 … R / 2 and sines below zero; of each k two rows Wn,
real and imaginary; and of b = 0 … 8 two rows for the second step, cosines and sines of every j,
halved where b is its own opposite.
"""

from std.memory import stack_allocation

from .linear import F32, LINE

comptime LANES = 16
comptime Lanes = SIMD[F32, LANES]
comptime HALF = LANES // 2
comptime TURNED = 4 * LANES
"""Numbers that one k's real and imaginary parts take between the steps, the first one repeated at
the end of each."""


def counts_of(terms: Int) -> Int:
    """How many k there are up to half of R `terms`."""
    return terms // 2 + 1


def powers_of(terms: Int) -> Int:
    """Numbers that `power_spectrum` writes: 16 for each k."""
    return counts_of(terms) * LANES


def place_of(bin: Int, terms: Int) -> Int:
    """Where among them the power of a bin stands."""
    var k = bin % terms
    var j = bin // terms
    if k <= terms // 2:
        return k * LANES + j
    return (terms - k) * LANES + LANES - 1 - j


@always_inline
def fold_frame[terms: Int](
    folded: Pointer[mut=True, Float32, _], frame: Pointer[Float32, _], window: Pointer[Float32, _]
):
    """Sums of the window's opposite sixteens, from that which has no opposite on; then differences."""
    comptime counts = counts_of(terms)

    @always_inline
    def seen(a: Int) {var frame, var window} -> Lanes:
        var at = a * LANES
        return frame.unsafe_load[width=LANES](at) * window.unsafe_load[width=LANES](at)

    folded.unsafe_store(0, seen(0))
    comptime for a in range(1, counts):
        comptime if 2 * a == terms:
            folded.unsafe_store(a * LANES, seen(a))
        else:
            var one = seen(a)
            var other = seen(terms - a)
            folded.unsafe_store(a * LANES, one + other)
            folded.unsafe_store((counts + a - 1) * LANES, one - other)


@always_inline
def first_step[terms: Int](
    turned: Pointer[mut=True, Float32, _],
    folded: Pointer[Float32, _],
    factors: Pointer[Float32, _],
    k: Int,
):
    """The sums over a for one k, times Wn."""
    comptime counts = counts_of(terms)
    var cosines = factors.unsafe_offset((terms + 2 * k) * LANES)
    var sines = cosines.unsafe_offset(LANES)
    var turn = factors.unsafe_offset((terms + 2 * counts + 2 * k) * LANES)
    var real = Lanes(0)
    var imaginary = Lanes(0)
    comptime for a in range(counts):
        var sums = folded.unsafe_load[width=LANES](a * LANES)
        real = sums.fma(Lanes(cosines[unsafe_offset=a]), real)
    comptime for a in range(1, (terms + 1) // 2):
        var differences = folded.unsafe_load[width=LANES]((counts + a - 1) * LANES)
        imaginary = differences.fma(Lanes(sines[unsafe_offset=a]), imaginary)
    var across = turn.unsafe_load[width=LANES](0)
    var along = turn.unsafe_load[width=LANES](LANES)
    var x = real.fma(across, -(imaginary * along))
    var y = real.fma(along, imaginary * across)
    turned.unsafe_store(0, x)
    turned[unsafe_offset=LANES] = x[0]
    turned.unsafe_store(2 * LANES, y)
    turned[unsafe_offset=3 * LANES] = y[0]


@always_inline
def second_step(
    power: Pointer[mut=True, Float32, _], turned: Pointer[Float32, _], rows: Pointer[Float32, _]
):
    """The sums over b for one k, and their squares."""
    comptime REAL = 0
    comptime IMAGINARY = 1
    var sums = stack_allocation[2 * LANES, Float32, alignment=LINE]()
    var differences = stack_allocation[2 * LANES, Float32, alignment=LINE]()
    comptime for part in range(2):
        var own = turned.unsafe_offset(part * 2 * LANES)
        var one = own.unsafe_load[width=LANES](0)
        var other = own.unsafe_load[width=LANES](1).reversed()
        sums.unsafe_store(part * LANES, one + other)
        differences.unsafe_store(part * LANES, one - other)
    var real = Lanes(0)
    var imaginary = Lanes(0)
    comptime for b in range(HALF + 1):
        var cosines = rows.unsafe_load[width=LANES](2 * b * LANES)
        real = cosines.fma(Lanes(sums[unsafe_offset=REAL * LANES + b]), real)
        imaginary = cosines.fma(Lanes(sums[unsafe_offset=IMAGINARY * LANES + b]), imaginary)
        comptime if 0 < b and b < HALF:
            var sines = rows.unsafe_load[width=LANES]((2 * b + 1) * LANES)
            var opposite = differences[unsafe_offset=IMAGINARY * LANES + b]
            real = sines.fma(Lanes(opposite), real)
            opposite = -differences[unsafe_offset=REAL * LANES + b]
            imaginary = sines.fma(Lanes(opposite), imaginary)
    power.unsafe_store(0, real.fma(real, imaginary * imaginary))


@always_inline
def power_spectrum[terms: Int](
    power: Pointer[mut=True, Float32, _], frame: Pointer[Float32, _], factors: Pointer[Float32, _]
):
    """The squared magnitudes of the bins of frame[16 terms], in `place_of`'s order."""
    comptime counts = counts_of(terms)
    var folded = stack_allocation[terms * LANES, Float32, alignment=LINE]()
    var turned = stack_allocation[counts * TURNED, Float32, alignment=LINE]()
    fold_frame[terms](folded, frame, factors)
    for k in range(counts):
        first_step[terms](turned.unsafe_offset(k * TURNED), folded, factors, k)
    var rows = factors.unsafe_offset((terms + 4 * counts) * LANES)
    for k in range(counts):
        second_step(power.unsafe_offset(k * LANES), turned.unsafe_offset(k * TURNED), rows)
