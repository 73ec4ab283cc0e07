"""Calls the kernels' functions once each, so that they are compiled for a CPU that is not here.

`test_kernels_elsewhere.py` reads the assembly; nothing runs this.
"""

from kernels.attention import CacheShape, cross_attend, self_attend, write_key, write_value
from kernels.attention_int8 import pack_key, pack_values
from kernels.choose import Scores, best_of, collect_best, find_mass
from kernels.convolution import pad_frames, repeat_last, rows_to_compute
from kernels.cross_attention_int8 import ByteCacheShape, attend_bytes, attend_run
from kernels.decoder_layers_int8 import DecoderLayers, LayerCaches, LayerWeights, Linears, Norms
from kernels.encoder_attention import attend_group
from kernels.encoder_attention_int8 import attend_windows_int8
from kernels.encoder_int8 import convolve_int8
from kernels.head_bytes import cross_kv_int8, norm_heads_int8
from kernels.likely_choice import Head, Rules, choose_likely
from kernels.linear import BIAS_GELU, BIAS_RESIDUAL, product
from kernels.linear_int8 import product_int8
from kernels.lm_head_int8 import all_logits
from kernels.log_mel import TERMS, Bands, add_bands
from kernels.lstm import Memory
from kernels.matmul import multiply
from kernels.matmul_int8 import matrix_of, multiply_int8
from kernels.parallel import phase_counters
from kernels.pointers import untracked, untracked_mut
from kernels.spectrum import power_spectrum
from kernels.speech import hear
from kernels.token_embedding import embedding_of
from kernels.vad import Detector, Layer
from kernels.wide_int8 import multiply_residual_wide, wide_matrix

comptime SIZE = 1 << 16


def values[T: DType]() -> List[Scalar[T]]:
    return List[Scalar[T]](length=SIZE, fill=1)


def products[T: DType]() raises:
    var y = values[DType.float32]()
    var x = values[DType.float32]()
    var bias = values[DType.float32]()
    var residual = values[DType.float32]()
    var w = values[T]()
    product[T, BIAS_GELU](
        y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), residual.unsafe_ptr(), 3, 16, 64
    )
    multiply[T, BIAS_RESIDUAL](
        y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), residual.unsafe_ptr(), 13, 16, 64, 64
    )


def attention[T: DType]() raises:
    var mixed = values[DType.float32]()
    var qkv = values[DType.float32]()
    var other = values[DType.float32]()
    var keys = values[T]()
    var entries = values[T]()
    var rows = values[DType.int32]()
    var positions = values[DType.int32]()
    var shape = CacheShape(1, 1 << 10, 1 << 10, 0)
    self_attend[T](
        mixed.unsafe_ptr(), keys.unsafe_ptr(), entries.unsafe_ptr(), qkv.unsafe_ptr(),
        rows.unsafe_ptr(), positions.unsafe_ptr(), 2, shape,
    )
    cross_attend[T](
        mixed.unsafe_ptr(), keys.unsafe_ptr(), entries.unsafe_ptr(), qkv.unsafe_ptr(),
        rows.unsafe_ptr(), 5, 16, shape,
    )
    write_key[T](keys.unsafe_ptr(), qkv.unsafe_ptr(), 5)
    write_value[T](entries.unsafe_ptr(), qkv.unsafe_ptr(), 5)
    var others = values[DType.float32]()
    var scores = values[DType.float32]()
    var queries = values[DType.float32]()
    var scale = values[DType.float32]()
    attend_group(
        mixed.unsafe_ptr(), qkv.unsafe_ptr(), other.unsafe_ptr(), others.unsafe_ptr(),
        scores.unsafe_ptr(), queries.unsafe_ptr(), scale.unsafe_ptr(), 5, 16, 32, 64,
    )


def of_bytes() raises:
    var y = values[DType.float32]()
    var x = values[DType.float32]()
    var gamma = values[DType.float32]()
    var beta = values[DType.float32]()
    var scale = values[DType.float32]()
    var bias = values[DType.float32]()
    var residual = values[DType.float32]()
    var w = values[DType.int8]()
    var bytes = values[DType.uint8]()
    var entries = values[DType.uint8]()
    var words = values[DType.int16]()
    var slots = values[DType.int32]()
    product_int8[BIAS_GELU](
        y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), scale.unsafe_ptr(), bytes.unsafe_ptr(),
        bias.unsafe_ptr(), residual.unsafe_ptr(), 15, 16, 64,
    )
    var matrix = matrix_of(w.unsafe_ptr(), scale.unsafe_ptr(), bytes.unsafe_ptr(), 2, 192, 192)
    multiply_int8[BIAS_GELU, True](
        y.unsafe_ptr(), x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(), matrix.columns,
        bias.unsafe_ptr(), residual.unsafe_ptr(), 13, 16,
    )
    var wide = wide_matrix(matrix.columns, w.unsafe_ptr(), 64)
    norm_heads_int8[wide=True](
        entries.unsafe_ptr(), x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(),
        matrix.columns, wide.columns, bias.unsafe_ptr(), 1, 17, 1, 0,
    )
    multiply_residual_wide(
        y.unsafe_ptr(), x.unsafe_ptr(), wide.columns, bias.unsafe_ptr(), residual.unsafe_ptr(), 13, 16
    )
    _ = wide^
    cross_kv_int8(
        entries.unsafe_ptr(), bytes.unsafe_ptr(), ByteCacheShape(1, 0, 0, 0), x.unsafe_ptr(),
        matrix.columns, bias.unsafe_ptr(), slots.unsafe_ptr(), 1, 17,
    )
    _ = matrix^
    attend_windows_int8(y.unsafe_ptr(), bytes.unsafe_ptr(), 1, 1, 17, 0)
    attend_bytes[4](
        y.unsafe_ptr(), x.unsafe_ptr(), 64, bytes.unsafe_ptr(), entries.unsafe_ptr(),
        scale.unsafe_ptr(), words.unsafe_ptr(), 16, 16,
    )


def decoder_layers() raises:
    var y = values[DType.float32]()
    var x = values[DType.float32]()
    var gamma = values[DType.float32]()
    var beta = values[DType.float32]()
    var queries = values[DType.float32]()
    var w = values[DType.int8]()
    var groups = values[DType.uint8]()
    var keys = values[DType.float16]()
    var bytes = values[DType.uint8]()
    var ids = values[DType.int32]()
    var counters = phase_counters(28)
    var norms = Norms(untracked(gamma.unsafe_ptr()), untracked(beta.unsafe_ptr()), 64)
    var linears = Linears(
        untracked(w.unsafe_ptr()), untracked(gamma.unsafe_ptr()), untracked(groups.unsafe_ptr()),
        untracked(beta.unsafe_ptr()), 64, 64,
    )
    var weights = LayerWeights(norms, linears, linears, norms, linears, linears, norms, linears, linears)
    var caches = LayerCaches[DType.float16](
        untracked_mut(keys.unsafe_ptr()), untracked_mut(keys.unsafe_ptr()), untracked(bytes.unsafe_ptr()),
        untracked(bytes.unsafe_ptr()), CacheShape(1, 2048, 2048, 0), ByteCacheShape(1, 2176, 4608, 0), 1, 1,
    )
    var pointer = untracked(ids.unsafe_ptr())
    var layers = DecoderLayers[DType.float16, 17](weights, caches, pointer, pointer, pointer, 9, 0, 2)
    layers.work(
        untracked_mut(y.unsafe_ptr()), untracked(x.unsafe_ptr()), untracked_mut(queries.unsafe_ptr()),
        counters.unsafe_ptr(), 0,
    )
    print(y[1], queries[1])
    _ = layers^
    _ = w^
    _ = groups^


def caches_of_bytes() raises:
    var mixed = values[DType.float32]()
    var kv = values[DType.float32]()
    var keys = values[DType.uint8]()
    var entries = values[DType.uint8]()
    var windows = values[DType.int32]()
    var starts: List[Int] = [0, 3]
    pack_key[0, 127](keys.unsafe_ptr(), kv.unsafe_ptr(), 5)
    pack_values(entries.unsafe_ptr(), kv.unsafe_ptr(), 17, 32, 128)
    pack_values[255](entries.unsafe_ptr(), kv.unsafe_ptr(), 17, 32, 128)
    attend_run(
        mixed.unsafe_ptr(), keys.unsafe_ptr(), entries.unsafe_ptr(), kv.unsafe_ptr(),
        windows.unsafe_ptr(), starts.unsafe_ptr(), 1, 0, 17, ByteCacheShape(1, 2176, 4608, 0),
    )
    print(mixed[1], keys[1], entries[1])


def choosing() raises:
    var logits = values[DType.float32]()
    var mask = values[DType.float32]()
    var ids = values[DType.int32]()
    var found = values[DType.float32]()
    var x = values[DType.float32]()
    var scale = values[DType.float32]()
    var halves = values[DType.uint8]()
    var rests = values[DType.int8]()
    var embedding = embedding_of(
        halves.unsafe_ptr(), rests.unsafe_ptr(), True, scale.unsafe_ptr(), 900, 64
    )
    all_logits(found.unsafe_ptr(), x.unsafe_ptr(), embedding, 5)
    var zeros = values[DType.float32]()
    var states = values[DType.int32]()
    var rules = Rules(
        untracked(ids.unsafe_ptr()), untracked(mask.unsafe_ptr()), untracked(states.unsafe_ptr()),
        untracked(zeros.unsafe_ptr()), untracked(zeros.unsafe_ptr()), 600, 800,
    )
    var tokens = values[DType.int32]()
    var head = Head(
        untracked(scale.unsafe_ptr()), untracked(mask.unsafe_ptr()), untracked(logits.unsafe_ptr()),
        embedding^, untracked(zeros.unsafe_ptr()),
    )
    choose_likely(tokens.unsafe_ptr(), found.unsafe_ptr(), x.unsafe_ptr(), head, rules, 5, 3)
    var scores = Scores(logits.unsafe_ptr(), mask.unsafe_ptr())
    var best = best_of(scores, 3, 500)
    var wanted = Float32(7)
    var sampled = find_mass(scores, 3, 500, best.logit, 0.5, wanted)
    var count = collect_best(ids.unsafe_ptr(), found.unsafe_ptr(), 0, 5, scores, 3, 500)
    print(best.id, sampled, count, found[1], tokens[1])


def hearing() raises:
    var y = values[DType.float32]()
    var x = values[DType.float32]()
    var w = values[DType.float32]()
    var states = values[DType.float32]()
    var counts = values[DType.int32]()
    var bands = Bands(w.unsafe_ptr(), 80)
    power_spectrum[TERMS](y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr())
    add_bands[4](states.unsafe_ptr(), y.unsafe_ptr(), w.unsafe_ptr(), bands)
    var layer = Layer(untracked(w.unsafe_ptr()), untracked(w.unsafe_ptr()))
    var detector = Detector(
        untracked(w.unsafe_ptr()), layer.copy(), layer.copy(), layer.copy(), layer.copy(),
        layer.copy(),
    )
    var memory = Memory(
        untracked(w.unsafe_ptr()), untracked(w.unsafe_ptr()), untracked(w.unsafe_ptr()),
        untracked(counts.unsafe_ptr()), untracked(w.unsafe_ptr()),
        untracked_mut(states.unsafe_ptr()),
    )
    hear(y.unsafe_ptr(), x.unsafe_ptr(), 2, detector, memory)
    print(y[1], states[1])


def main() raises:
    products[DType.float32]()
    products[DType.bfloat16]()
    products[DType.float16]()
    attention[DType.float32]()
    attention[DType.bfloat16]()
    attention[DType.float16]()
    of_bytes()
    decoder_layers()
    caches_of_bytes()
    choosing()
    hearing()
