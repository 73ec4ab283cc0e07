"""Every CPU kernel in a small graph of its own, compiled together; numpy in, numpy out.

Sizes that a kernel reads from its inputs are symbolic, so one graph takes any of them. The layers
of the models are used to call the kernels, with caches of 2 layers, 3 slots and 2 heads.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import BufferType, DeviceRef, Graph, Module, TensorType
from tiny_layouts import to_bfloat16
from tiny_model import tiny_model

from mwc.compiler.graphs import layers, layers_int8, log_mel, vad
from mwc.compiler.graphs.entry_points import load_kernels
from mwc.compiler.graphs.scope import DTYPES, KERNELS, LayerWeights, Matrix, Plan
from mwc.compiler.mel import mel_bands
from mwc.compiler.spectrum import spectrum_factors
from mwc.compiler.target import has_vnni, parse_target
from mwc.compiler.vad_weights import DETECTOR_RULES
from mwc.runtime.decoder import (
    AUDIO_KEY_BYTES_SHAPE,
    AUDIO_KEY_SHAPE,
    AUDIO_VALUE_BYTES_SHAPE,
    AUDIO_VALUE_SHAPE,
    RULE_STATE_SIZE,
    TEXT_KEY_SHAPE,
    TEXT_VALUE_SHAPE,
)

Array = npt.NDArray[Any]
Build = Callable[..., Any]

WEIGHT_DTYPES = ("float32", "bfloat16", "float16")
LAYERS, SLOTS, HEADS = 2, 3, 2
STATE = 64 * HEADS
MLP = 4 * STATE
FRAMES = 300
"""Frames of the convolutions' input, for several threads."""
AUDIO_FRAMES = (0, 1, 2, 3, 75, 150, FRAMES - 2, FRAMES - 1, FRAMES)
"""Frames of the audio, of windows that are convolved together."""

ARCH = os.environ.get("MWC_TEST_CPU")
VNNI = has_vnni(parse_target(f"cpu:{ARCH}" if ARCH else "cpu"))
"""Whether the kernels under test use VNNI: bytes take their whole range, no weights have to fit."""

SPEC = tiny_model(heads=HEADS, layers=LAYERS).spec
FACTORS = spectrum_factors(SPEC.audio.n_fft)
BANDS = mel_bands(SPEC.audio, SPEC.model.n_mels)


def to_buffer(values: Array, dtype: str) -> Buffer:
    """A MAX buffer of float32, bfloat16, float16 or int32."""
    values = np.ascontiguousarray(values)
    if dtype == "bfloat16":
        return Buffer.from_numpy(to_bfloat16(values)).view(DType.bfloat16, values.shape)
    return Buffer.from_numpy(values.astype(dtype))


def from_buffer(buffer: Buffer) -> Array:
    """The buffer's values; floats as float32."""
    if buffer.dtype == DType.bfloat16:
        bits = buffer.view(DType.uint16, buffer.shape).to_numpy().astype(np.uint32)
        return (bits << 16).view(np.float32)
    values = buffer.to_numpy()
    return values.astype(np.float32) if values.dtype == np.float16 else values


def pack_keys(keys: Array) -> Array:
    """Keys [..., time, 64] in the caches' order [..., time / 16, 64, 16]; 16 divides time."""
    *outer, time, size = keys.shape
    return keys.reshape(*outer, time // 16, 16, size).swapaxes(-1, -2)


def unpack_keys(packed: Array) -> Array:
    """The inverse of `pack_keys`."""
    *outer, blocks, size, lanes = packed.shape
    return packed.swapaxes(-1, -2).reshape(*outer, blocks * lanes, size)


def _decoder_layer() -> dict[str, tuple[Any, ...]]:
    """(dtype, *sizes) of a decoder layer's weights by name, in the order that the kernel takes.

    It takes those of LAYERS layers, which are its first axis.
    """
    sizes = {"self_attn.qkv": (3 * STATE, STATE), "fc1": (MLP, STATE), "fc2": (STATE, MLP)}
    types: dict[str, tuple[Any, ...]] = {}
    for norm, *linears in layers_int8.DECODER_LAYER_PARTS:
        types |= {f"{norm}.weight": ("float32", STATE), f"{norm}.bias": ("float32", STATE)}
        for name in linears:
            n, k = sizes.get(name, (STATE, STATE))
            types[f"{name}.weight"] = ("int8", n // 16, k // 4, 16, 4)
            types[f"{name}.scale"] = ("float32", n)
            types[f"{name}.group_scale"] = ("uint8", n // 16, k // 64, 16)
            types[f"{name}.bias"] = ("float32", n)
    return types


DECODER_LAYER = _decoder_layer()


class Kernels:
    """The compiled graphs: `kernels.run(name, *arrays)`; what a graph writes to is a Buffer."""

    def __init__(self) -> None:
        self._module = Module()
        self._library, path = load_kernels(KERNELS)
        self._plan = Plan(SPEC, DeviceRef.CPU(), {}, "float32", "float32", kernels=path)
        self._inputs: dict[str, tuple[str, ...]] = {}
        for dtype in WEIGHT_DTYPES:
            self._add_products(dtype)
            self._add_attention(dtype)
        audio = self._caches("uint8", AUDIO_KEY_BYTES_SHAPE, AUDIO_VALUE_BYTES_SHAPE)
        self._add_cross_attention("int8", audio)
        self._add_cross_kv(audio)
        self._add_int8()
        self._add_decoder_layers()
        self._add("matmul", matmul, x3("k"), ("float32", "n", "k"))
        self._add("encoder_attention", layers.encoder_attention, x3(3 * STATE))
        self._add("layer_norm", layers.layer_norm, x3("k"), ("float32", "k"), ("float32", "k"))
        self._add("normalise", layers.normalise, x3("k"), ("float32", "b"), ("int32", "b"))
        heads = ("uint8", "b", HEADS, layers_int8.head_bytes(SPEC.model.n_audio_ctx))
        self._add("encoder_attention.int8", attention_int8, heads, x3("k"))
        vocab = SPEC.model.n_vocab
        self._add(
            "choose", layers.choose,
            ("float32", "m", vocab), ("float32", 2, vocab), ("int32", "m", 6),
            ("float32", "m"), ("float32", "m"), ("int32", "c"),
        )  # fmt: skip
        self._add_hearing()
        session = InferenceSession(devices=[CPU()])
        compiled = session.compile(self._module, custom_extensions=[path])
        self._graphs = session.init_all(compiled, weights_registry={})

    def run(self, name: str, *arguments: Array | Buffer) -> Array | tuple[Array, ...]:
        """Execute a graph; one output as it is, several as a tuple, none as ()."""
        buffers = [
            value if isinstance(value, Buffer) else to_buffer(value, dtype)
            for value, dtype in zip(arguments, self._inputs[name], strict=True)
        ]
        outputs = tuple(from_buffer(value) for value in self._graphs[name].execute(*buffers))
        return outputs[0] if len(outputs) == 1 else outputs

    def _add_products(self, dtype: str) -> None:
        x, vector, weight = ("float32", "m", "k"), ("float32", "k"), (dtype, "n", "k")
        bias, residual = ("float32", "n"), ("float32", "m", "n")

        def norm_linear(gelu: bool) -> Build:
            return lambda plan, x, g, b, w, bias: layers.norm_linear(
                plan, x, (g, b), Matrix(w), bias, gelu=gelu
            )

        def norm_logits(plan: Plan, x: Any, g: Any, b: Any, w: Any) -> Any:
            return layers.norm_logits(plan, x, (g, b), Matrix(w))

        def embed(plan: Plan, tokens: Any, positions: Any, w: Any, table: Any) -> Any:
            return layers.embed(plan, tokens, positions, Matrix(w), table)

        def linear_residual(plan: Plan, x: Any, w: Any, bias: Any, residual: Any) -> Any:
            return layers.linear_residual(plan, x, Matrix(w), bias, residual)

        def with_residual(plan: Plan, x: Any, w: Any, bias: Any, residual: Any) -> Any:
            return layers.linear(plan, x, Matrix(w), bias, residual=residual)

        def with_bias(plan: Plan, x: Any, w: Any, bias: Any) -> Any:
            return layers.linear(plan, x, Matrix(w), bias)

        def with_gelu(plan: Plan, x: Any, w: Any, bias: Any) -> Any:
            return layers.linear(plan, x, Matrix(w), bias, gelu=True)

        def conv(plan: Plan, x: Any, w: Any, bias: Any, n_frames: Any, *, stride: int) -> Any:
            return layers.convolution(plan, x, Matrix(w), bias, n_frames, stride=stride)

        normed = (x, vector, vector, weight, bias)
        self._add(f"norm_linear.{dtype}", norm_linear(gelu=False), *normed)
        self._add(f"norm_linear_gelu.{dtype}", norm_linear(gelu=True), *normed)
        self._add(f"linear_residual.{dtype}", linear_residual, x, weight, bias, residual)
        self._add(f"norm_logits.{dtype}", norm_logits, x, vector, vector, weight)
        ids, table = ("int32", "m"), ("float32", "n_ctx", "k")
        self._add(f"embed.{dtype}", embed, ids, ids, weight, table)
        self._add(f"matmul_bias.{dtype}", with_bias, x3("k"), weight, bias)
        self._add(f"matmul_gelu.{dtype}", with_gelu, x3("k"), weight, bias)
        self._add(f"matmul_residual.{dtype}", with_residual, x3("k"), weight, bias, x3("n"))
        frames = ("float32", "b", FRAMES, "d")
        for stride in (1, 2):
            build = partial(conv, stride=stride)
            self._add(f"conv{stride}.{dtype}", build, frames, weight, bias, ("int32", "b"))

    def _add_int8(self) -> None:
        """The products with int8 weights: x, packed values, scales, then the rest."""
        vector, column = ("float32", "n"), ("float32", "k")
        groups = ("uint8", "blocks", "groups", 16)
        weight = ("int8", "blocks", "quads", 16, 4), vector, groups

        def norm_linear(gelu: bool) -> Build:
            return lambda plan, x, w, s, gs, bias, g, b: layers.norm_linear(
                plan, x, (g, b), Matrix(w, s, gs), bias, gelu=gelu
            )

        def norm_logits(plan: Plan, x: Any, g: Any, b: Any, *parts: Any) -> Any:
            return layers.norm_logits(plan, x, (g, b), embedding(*parts))

        def norm_choose(plan: Plan, x: Any, g: Any, b: Any, *given: Any) -> Any:
            *parts, bounds, wanted, suppress, states, heat, uniforms, ids, ranks = given
            rules = suppress, states, heat, uniforms
            head = layers_int8.Head((g, b), embedding(*parts), bounds)
            return layers_int8.norm_choose(plan, x, head, wanted, rules, ids, ranks)

        def embed(plan: Plan, t: Any, p: Any, table: Any, *parts: Any) -> Any:
            return layers.embed(plan, t, p, embedding(*parts), table)

        def linear_residual(plan: Plan, x: Any, w: Any, s: Any, gs: Any, *rest: Any) -> Any:
            return layers.linear_residual(plan, x, Matrix(w, s, gs), *rest)

        def linear(gelu: bool) -> Build:
            return lambda plan, x, w, s, gs, bias: layers.linear(
                plan, x, Matrix(w, s, gs), bias, gelu=gelu
            )

        def with_norm(gelu: bool) -> Build:
            return lambda plan, x, w, s, gs, bias, g, b: layers.linear(
                plan, x, Matrix(w, s, gs), bias, gelu=gelu, norm=(g, b)
            )

        def with_residual(
            plan: Plan, x: Any, w: Any, s: Any, gs: Any, bias: Any, residual: Any
        ) -> Any:
            return layers.linear(plan, x, Matrix(w, s, gs), bias, residual=residual)

        def with_residual_wide(plan: Plan, x: Any, *given: Any) -> Any:
            *parts, rest, bias, residual = given
            return layers.linear(plan, x, Matrix(*parts, rest=rest), bias, residual=residual)

        def conv(stride: int) -> Build:
            return lambda plan, x, w, s, gs, bias, n_frames: layers.convolution(
                plan, x, Matrix(w, s, gs), bias, n_frames, stride=stride
            )

        def feed_forward(plan: Plan, x: Any, g: Any, b: Any, *layer: Any) -> Any:
            first, second = (Matrix(*layer[:3]), layer[3]), (Matrix(*layer[4:7]), layer[7])
            return layers.feed_forward(plan, x, (g, b), first, second)

        few, many = (("float32", "m", "k"), *weight), (x3("k"), *weight)
        normed = (vector, column, column)
        residual = (vector, ("float32", "m", "n"))
        self._add("norm_linear.int8", norm_linear(gelu=False), *few, *normed)
        self._add("norm_linear_gelu.int8", norm_linear(gelu=True), *few, *normed)
        self._add("linear_residual.int8", linear_residual, *few, *residual)
        ids = ("int32", "m")
        halves = ("uint8", 2, "blocks", "octets", 16, 4), vector, column
        head = (few[0], column, column, *halves)
        of_rows = ("int32", "m", RULE_STATE_SIZE), ("float32", "m"), ("float32", "m")
        rules = (("float32", 2, "n"), *of_rows, ("int32", 2), ("int32", "c"))
        rest = ("int8", "blocks", "quads", 16, 4)
        asked = ("float32", 3), ids, *rules
        table = ("float32", "rows", "k")
        for kind, rests in (("int8", [rest]), ("bytes", [])):
            self._add(f"norm_logits.{kind}", norm_logits, *head, *rests)
            self._add(f"norm_choose.{kind}", norm_choose, *head, *rests, *asked)
            self._add(f"embed.{kind}", embed, ids, ids, table, *halves, *rests)
        self._add("matmul_bias.int8", linear(gelu=False), *many, vector)
        self._add("matmul_gelu.int8", linear(gelu=True), *many, vector)
        self._add("norm_matmul.int8", with_norm(gelu=False), *many, *normed)
        self._add("norm_heads.int8", norm_heads, *many, *normed)
        self._add("norm_matmul_gelu.int8", with_norm(gelu=True), *many, *normed)
        self._add("matmul_residual.int8", with_residual, *many, vector, x3("n"))
        of_values = ("int8", "value_blocks", "quads", 16, 4)
        self._add("norm_heads_wide.int8", norm_heads_wide, *many, of_values, *normed)
        self._add("matmul_residual_wide.int8", with_residual_wide, *many, rest, vector, x3("n"))
        for stride in (1, 2):
            frames = ("float32", "b", FRAMES, "k")
            self._add(f"conv{stride}.int8", conv(stride), frames, *weight, vector, ("int32", "b"))
        wide = (
            *(("int8", "h_blocks", "k_quads", 16, 4), ("float32", "h")),
            *(("uint8", "h_blocks", "k_groups", 16), ("float32", "h")),
        )
        self._add(
            "feed_forward.int8", feed_forward, x3("k"), column, column, *wide, *weight, vector
        )

    def _add_decoder_layers(self) -> None:
        """Decoder layers: caches, x, rows, positions, windows, which of them run, their weights."""

        def build(plan: Plan, sk: Any, sv: Any, ck: Any, cv: Any, x: Any, *rest: Any) -> Any:
            weights = LayerWeights(tuple(DECODER_LAYER), rest[4:])
            caches = sk, sv, ck, cv
            return layers_int8.decoder_layers(plan, caches, x, rest[:3], rest[3], LAYERS, weights)

        ids = "int32", "m"
        weights = [(dtype, LAYERS, *sizes) for dtype, *sizes in DECODER_LAYER.values()]
        text = self._caches("float16", TEXT_KEY_SHAPE, TEXT_VALUE_SHAPE)
        audio = self._caches("uint8", AUDIO_KEY_BYTES_SHAPE, AUDIO_VALUE_BYTES_SHAPE)
        x = ("float32", "m", STATE)
        self._add(
            "decoder_layers.int8", build, *text, *audio, x, ids, ids, ids, ("int32", 2), *weights
        )

    def _add_attention(self, dtype: str) -> None:
        text = self._caches(dtype, TEXT_KEY_SHAPE, TEXT_VALUE_SHAPE)
        per_token = ("int32", "m")

        def self_attention(plan: Plan, k: Any, v: Any, *rest: Any) -> Any:
            return layers.self_attention(plan, (k, v), *rest)

        def copy_rows(plan: Plan, k: Any, v: Any, *rest: Any) -> tuple[()]:
            layers.copy_rows(plan, (k, v), *rest)
            return ()

        qkv = ("float32", "m", 3 * STATE)
        self._add(
            f"self_attention.{dtype}", self_attention, *text, qkv, per_token, per_token,
            ("int32", 1),
        )  # fmt: skip
        copies = ("int32", "c")
        self._add(f"copy_rows.{dtype}", copy_rows, *text, copies, copies, copies)
        self._add_cross_attention(dtype, self._caches(dtype, AUDIO_KEY_SHAPE, AUDIO_VALUE_SHAPE))

    def _add_cross_attention(self, name: str, audio: list[Any]) -> None:
        per_token, layer = ("int32", "m"), ("int32", 1)

        def cross_attention(plan: Plan, k: Any, v: Any, *rest: Any) -> Any:
            return layers.cross_attention(plan, (k, v), *rest)

        def store_cross_kv(plan: Plan, k: Any, v: Any, *rest: Any) -> tuple[()]:
            layers.store_cross_kv(plan, (k, v), *rest)
            return ()

        q, kv = ("float32", "m", STATE), x3(2 * STATE)
        self._add(f"cross_attention.{name}", cross_attention, *audio, q, per_token, layer)
        self._add(f"store_cross_kv.{name}", store_cross_kv, *audio, kv, ("int32", "b"), layer)
        self._add(
            f"alignment_scores.{name}", layers.alignment_scores,
            audio[0], q, per_token, layer, ("int32", "h"),
        )  # fmt: skip

    def _add_cross_kv(self, audio: list[Any]) -> None:
        def build(plan: Plan, k: Any, v: Any, x: Any, *rest: Any) -> tuple[()]:
            *parts, bias, windows, layer = rest
            layers_int8.store_cross_kv(plan, (k, v), x, Matrix(*parts), bias, windows, layer)
            return ()

        weight = (
            *(("int8", "blocks", "quads", 16, 4), ("float32", "n")),
            *(("uint8", "blocks", "groups", 16), ("float32", "n")),
        )
        self._add("cross_kv.int8", build, *audio, x3("k"), *weight, ("int32", "b"), ("int32", 1))

    def _add_hearing(self) -> None:
        tables = [("float32", *FACTORS.shape), ("float32", *BANDS.shape)]
        self._add("log_mel", log_mel_of_some, ("float32", "b", "length"), *tables)
        rules = [DETECTOR_RULES[f"vad.{name}"] for name in vad.ON_CPU]
        heard = ("float32", "f", 576), ("float32", "s", 2, 128), ("int32", "s")
        self._add("speech", vad.speech, *heard, *(("float32", *rule.shape) for rule in rules))

    def _caches(self, dtype: str, key: tuple[int, ...], value: tuple[int, ...]) -> list[Any]:
        return [
            BufferType(DTYPES[dtype], [LAYERS, SLOTS, HEADS, *shape], DeviceRef.CPU())
            for shape in (key, value)
        ]

    def _add(self, name: str, build: Build, *inputs: Any) -> None:
        """One graph: `build(plan, *inputs)`; an input is (dtype, *sizes), or a cache."""
        types = [
            i if isinstance(i, BufferType) else TensorType(DTYPES[i[0]], i[1:], DeviceRef.CPU())
            for i in inputs
        ]
        self._inputs[name] = tuple("" if isinstance(i, BufferType) else i[0] for i in inputs)
        with Graph(
            name, input_types=types, kernel_library=self._library, module=self._module
        ) as graph:
            values = [
                value.buffer if isinstance(kind, BufferType) else value.tensor
                for value, kind in zip(graph.inputs, types, strict=True)
            ]
            result = build(self._plan, *values)
            graph.output(*(result if isinstance(result, tuple) else (result,)))


def log_mel_of_some(plan: Plan, samples: Any, factors: Any, bands: Any) -> Any:
    """Of seven frames 160 samples apart."""
    return log_mel.log_mel(plan, samples, factors, bands, frames=7)


def matmul(plan: Plan, x: Any, w: Any) -> Any:
    """A product for many rows without a bias."""
    return layers.linear(plan, x, Matrix(w))


def embedding(values: Any, scale: Any, column_scale: Any, *rest: Any) -> Matrix:
    """A token embedding in int8."""
    return Matrix(values, scale, None, column_scale, *rest)


def norm_heads(plan: Plan, x: Any, w: Any, s: Any, gs: Any, bias: Any, g: Any, b: Any) -> Any:
    """Queries, keys and values as bytes, head by head."""
    return layers_int8.norm_heads(plan, x, (g, b), Matrix(w, s, gs), bias)


def norm_heads_wide(plan: Plan, x: Any, *given: Any) -> Any:
    """The same, of values of 16 bits before they are bytes."""
    *parts, rest, bias, g, b = given
    return layers_int8.norm_heads(plan, x, (g, b), Matrix(*parts, rest=rest), bias)


def attention_int8(plan: Plan, heads: Any, like: Any) -> Any:
    """The encoder's attention as int8 artifacts have it, to as many positions as `like` has."""
    return layers_int8.encoder_attention(plan, heads, like.shape[1])


def x3(width: str | int) -> tuple[str | int, ...]:
    """A batch of rows: float32 [b, t, width]."""
    return ("float32", "b", "t", width)
