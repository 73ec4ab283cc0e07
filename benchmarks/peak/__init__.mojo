"""What this machine can do at most, to hold the kernels against: arithmetic and reading.

Nothing of this is in an artifact. One task per thread of MAX's pool, as in the kernels.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.memory import bitcast
from std.runtime import parallelism_level
from std.sys import CompilationTarget, llvm_intrinsic

comptime F32 = DType.float32
comptime I32 = DType.int32
comptime WIDE = CompilationTarget.has_avx512f()
comptime VNNI = WIDE and CompilationTarget._has_feature["avx512vnni"]()
comptime LANES = 16 if WIDE else 8
"""Of one register."""
comptime CHAINS = 24 if WIDE else 10
"""Sums in flight: enough to hide the latency of two units, and registers for all."""


@extensibility.register("peak_arithmetic")
struct PeakArithmetic:
    """Run rounds[0] times CHAINS multiply-add instructions per thread, on registers alone.

    `kind` 0: f32; 1: int8 quadruples (vpdpbusd), or without VNNI two of them added in 16 bits and
    widened (vpmaddubsw twice, vpaddw, vpmaddwd, vpaddd). The sums go to output f32 [threads], so
    that nothing is left out.
    """

    @staticmethod
    def execute[target: StaticString, kind: Int](
        output: OutputTensor[dtype=F32, rank=1, ...],
        rounds: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime ACC = I32 if kind == 1 else F32
        comptime Lanes = SIMD[ACC, LANES]
        var n = Int(rounds.unsafe_ptr()[unsafe_offset=0])
        var out_ptr = output.unsafe_ptr()

        def task(t: Int) {var n, var out_ptr}:
            var sums = Array[Lanes, length=CHAINS](fill=Lanes(0))
            var a = Lanes(Scalar[ACC](t + 1))
            var b = Lanes(Scalar[ACC](t + 2))
            for _ in range(n):
                comptime for i in range(CHAINS):
                    comptime if kind == 0:
                        sums[i] = a.fma(b, sums[i])
                    elif VNNI:
                        sums[i] = llvm_intrinsic["llvm.x86.avx512.vpdpbusd.512", Lanes](
                            sums[i], bitcast[DType.uint8, 64](a), bitcast[DType.int8, 64](b)
                        )
                    else:
                        # Of its own sum, so that the compiler cannot do it once for all.
                        comptime Words = SIMD[DType.int16, 2 * LANES]
                        comptime multiply = (
                            "llvm.x86.avx512.pmaddubs.w.512" if WIDE else "llvm.x86.avx2.pmadd.ub.sw"
                        )
                        comptime widen = (
                            "llvm.x86.avx512.pmaddw.d.512" if WIDE else "llvm.x86.avx2.pmadd.wd"
                        )
                        var x = bitcast[DType.uint8, 4 * LANES](sums[i])
                        var four = llvm_intrinsic[multiply, Words](
                            x, bitcast[DType.int8, 4 * LANES](a)
                        )
                        four += llvm_intrinsic[multiply, Words](
                            x, bitcast[DType.int8, 4 * LANES](b)
                        )
                        sums[i] += llvm_intrinsic[widen, Lanes](four, Words(1))
            var total = Lanes(0)
            comptime for i in range(CHAINS):
                total += sums[i]
            out_ptr[unsafe_offset=t] = total.reduce_add().cast[F32]()

        sync_parallelize(task, output.dim_size(0))


@extensibility.register("peak_reading")
struct PeakReading:
    """Sum x int32 [n]: reads it once. Output int32 [threads]; n is a multiple of 128 * threads."""

    @staticmethod
    def execute[target: StaticString](
        output: OutputTensor[dtype=I32, rank=1, ...],
        x: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var tasks = output.dim_size(0)
        var n = x.dim_size(0)
        var x_ptr = x.unsafe_ptr()
        var out_ptr = output.unsafe_ptr()

        def task(t: Int) {var tasks, var n, var x_ptr, var out_ptr}:
            var sums = Array[SIMD[I32, 16], length=8](fill=SIMD[I32, 16](0))
            for i in range(n * t // tasks, n * (t + 1) // tasks, 128):
                comptime for j in range(8):
                    sums[j] += x_ptr.unsafe_load[width=16](i + 16 * j)
            var total = SIMD[I32, 16](0)
            comptime for j in range(8):
                total += sums[j]
            out_ptr[unsafe_offset=t] = total.reduce_add()

        sync_parallelize(task, tasks)
