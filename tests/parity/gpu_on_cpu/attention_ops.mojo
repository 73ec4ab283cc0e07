"""Stand-ins on a CPU for attention_ops.mojo, whose activations are a GPU's: any float."""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor

from .attention import HEAD, KEY_BLOCK, CacheShape

comptime F32 = DType.float32


def widened[ACT: DType, //](x: Pointer[Scalar[ACT], _], n: Int) -> List[Float32]:
    """The same values in f32."""
    var wide = List[Float32](length=n, fill=0)
    for i in range(n):
        wide[i] = x[unsafe_offset=i].cast[F32]()
    return wide^


def narrow[ACT: DType, //](wide: List[Float32], to: Pointer[mut=True, Scalar[ACT], _]):
    for i in range(len(wide)):
        to[unsafe_offset=i] = wide[i].cast[ACT]()


def shape_of[KV: DType, //](
    k: MutableInputTensor[dtype=KV, rank=6, ...],
    v: MutableInputTensor[dtype=KV, rank=5, ...],
    layer: InputTensor[dtype=DType.int32, rank=1, ...],
) -> CacheShape:
    return CacheShape(
        k.dim_size(2),
        k.dim_size(3) * KEY_BLOCK,
        v.dim_size(3) * HEAD,
        Int(layer.unsafe_ptr()[unsafe_offset=0]) * k.dim_size(1),
    )


@extensibility.register("mwc_alignment_scores")
struct AlignmentScores:
    @staticmethod
    def execute[target: StaticString, KV: DType, ACT: DType](
        output: OutputTensor[dtype=F32, rank=3, ...],
        cross_k: MutableInputTensor[dtype=KV, rank=6, ...],
        q: InputTensor[dtype=ACT, rank=2, ...],
        windows: InputTensor[dtype=DType.int32, rank=1, ...],
        layer: InputTensor[dtype=DType.int32, rank=1, ...],
        heads: InputTensor[dtype=DType.int32, rank=1, ...],
    ) raises:
        var n = q.dim_size(0)
        var length = output.dim_size(2)
        var size = cross_k.dim_size(3) * KEY_BLOCK
        var first = Int(layer.unsafe_ptr()[unsafe_offset=0]) * cross_k.dim_size(1)
        for h in range(heads.dim_size(0)):
            var head = Int(heads.unsafe_ptr()[unsafe_offset=h])
            for i in range(n):
                var window = first + Int(windows.unsafe_ptr()[unsafe_offset=i])
                var keys = cross_k.unsafe_ptr().unsafe_offset(
                    (window * cross_k.dim_size(2) + head) * size
                )
                for t in range(length):
                    var score = Float32(0)
                    for d in range(HEAD):
                        var at = (t // 16) * HEAD * 16 + d * 16 + t % 16
                        var k = keys[unsafe_offset=at].cast[F32]()
                        var value = q.unsafe_ptr()[unsafe_offset=i * q.dim_size(1) + head * HEAD + d]
                        score += value.cast[F32]() * k
                    output.unsafe_ptr()[unsafe_offset=(h * n + i) * length + t] = score
