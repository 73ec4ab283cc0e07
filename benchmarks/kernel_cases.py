"""Every kernel alone at a model's sizes: one small graph each, compiled together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import BufferType, DeviceRef, Graph, Module, TensorType

from mwc.compiler.graphs import layers, layers_int8, vad
from mwc.compiler.graphs.entry_points import load_kernels
from mwc.compiler.graphs.scope import DTYPES, KERNELS, LayerWeights, Matrix, Plan
from mwc.compiler.quantize import pack_halves, pack_int8, quantize_int8, sieve_bounds
from mwc.compiler.vad_weights import DETECTOR_RULES
from mwc.compiler.weights import AUDIO_CACHES, CACHES, weight_specs
from mwc.runtime.artifact import open_artifact
from mwc.runtime.decoder import (
    AUDIO_KEY_BYTES_SHAPE,
    AUDIO_KEY_SHAPE,
    AUDIO_VALUE_BYTES_SHAPE,
    AUDIO_VALUE_SHAPE,
    RULE_STATE_SIZE,
    TEXT_KEY_SHAPE,
    TEXT_VALUE_SHAPE,
    VAD_CONTEXT,
    VAD_FRAME,
    VAD_STATE_SHAPE,
)
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.vad import FRAMES_PER_CALL

POSITION = 200
PEAK = 2.0
"""How near a token's weights the LM head's inputs are, in their own scale: a likely token."""


@dataclass(frozen=True)
class Case:
    """One kernel with its inputs ready.

    Attributes:
        name: what it is.
        run: execute it once.
        operations: two per multiply-add.
        read: bytes of weights or caches it has to read.
        kind: the arithmetic that bounds it.
    """

    name: str
    run: Callable[[], object]
    operations: float
    read: float
    kind: str


class Cases:
    """Kernels of one precision for one model; `compile` makes them runnable.

    `in_float16`: whether matrices are stored so; float32 else, whatever the precision, but int8.
    `kernels`: the folder of the kernels' source. `only`: leave out what has none of these in its
    name.
    """

    def __init__(
        self,
        spec: WhisperSpec,
        precision: str,
        *,
        in_float16: bool = False,
        kernels: Path = KERNELS,
        only: Sequence[str] = (),
    ) -> None:
        self._only = only
        self._model = spec.model
        self._precision = precision
        self._dtype = np.float16 if in_float16 else np.float32
        self._module = Module()
        self._library, path = load_kernels(kernels)
        self._tokens = spec.tokens
        self._path = path
        self._cache = CACHES[precision]
        weights = weight_specs(spec, precision)
        self._plan = Plan(spec, DeviceRef.CPU(), weights, "float32", self._cache, kernels=path)
        self._todo: list[tuple[str, list[Any], float, float, str]] = []
        self._rng = np.random.default_rng(0)

    def add_encoder(self) -> None:
        """The encoder's products and its attention, for one window."""
        model = self._model
        t, d, mlp = model.n_audio_ctx, model.n_audio_state, model.n_audio_mlp
        norm = [self._values(d), self._values(d)]
        self._many("qkv", t, d, 3 * d, norm=norm, heads=self._plan.int8)
        self._many("out_proj", t, d, d, residual=True)
        self._many("fc1", t, d, mlp, norm=norm, gelu=True)
        self._many("fc2", t, mlp, d, residual=True)
        self._many("conv1", 2 * t, 3 * model.n_mels, d, gelu=True)
        self._many("conv2", t, 3 * d, d, gelu=True)
        self._many("cross_kv", t, d, 2 * model.n_text_state)
        if self._plan.int8:
            qkv = self._values(1, 3 * model.n_audio_head, t, layers_int8.HEAD)
            attention, kind = layers_int8.encoder_attention, "int8"
        else:
            qkv = self._values(1, t, 3 * d)
            attention, kind = layers.encoder_attention, "f32"
        self._add("attention", attention, [qkv], 4.0 * t * t * d, 0, kind)

    def add_decoder(self, rows: int) -> None:
        """The decoder's kernels, for a number of rows."""
        model = self._model
        d, mlp = model.n_text_state, model.n_text_mlp
        self._few(f"qkv, {rows} rows", rows, d, 3 * d, norm=True)
        self._few(f"fc1, {rows} rows", rows, d, mlp, norm=True, gelu=True)
        self._few(f"fc2, {rows} rows", rows, mlp, d)
        self._logits(f"LM head, {rows} rows", rows, d, model.n_vocab)
        if self._precision == "int8":
            self._sieve(f"LM head by the sieve, {rows} rows", rows, d, model.n_vocab)
        self._attention(rows)
        self._around_attention(rows)
        if self._plan.int8:
            self._decoder_layer(f"decoder layer, {rows} rows", rows)

    def _attention(self, rows: int) -> None:
        """A token of each row attends to its window, and to POSITION tokens before it."""
        d = self._model.n_text_state
        slots, layer = np.arange(rows, dtype=np.int32), np.zeros(1, np.int32)
        audio, text = self._audio_caches(rows), self._text_caches(rows)
        self._add(
            f"cross_attention, {rows} rows",
            lambda plan, k, v, *rest: layers.cross_attention(plan, (k, v), *rest),
            [*audio, self._values(rows, d), slots, layer],
            4.0 * rows * self._model.n_audio_ctx * d, _bytes(*audio), "f32",
        )  # fmt: skip
        self._add(
            f"self_attention, {rows} rows",
            lambda plan, k, v, *rest: layers.self_attention(plan, (k, v), *rest),
            [*text, self._values(rows, 3 * d), slots, self._positions(rows), layer],
            4.0 * rows * (POSITION + 1) * d, _bytes(*text) * self._text_share(), "f32",
        )  # fmt: skip

    def _around_attention(self, rows: int) -> None:
        """What fills and copies caches, scores words, and chooses among logits."""
        model = self._model
        d, layer = model.n_text_state, np.zeros(1, np.int32)
        audio, text = self._audio_caches(1), self._text_caches(2 * rows)
        slots = np.arange(2 * rows, dtype=np.int32)

        def store(plan: Plan, k: Any, v: Any, *rest: Any) -> Any:
            layers.store_cross_kv(plan, (k, v), *rest)
            return rest[-1]

        def copy(plan: Plan, k: Any, v: Any, *rest: Any) -> Any:
            layers.copy_rows(plan, (k, v), *rest)
            return rest[-1]

        if rows == 1:
            kv = self._values(1, model.n_audio_ctx, 2 * d)
            self._add(
                "store cross_kv, 1 window", store, [*audio, kv, layer, layer], 0, kv.nbytes, "f32"
            )
        copies = [slots[:rows], slots[rows:], self._positions(rows)]
        share = self._text_share() / 2
        self._add(
            f"copy_rows, {rows} rows", copy, [*text, *copies], 0, _bytes(*text) * share, "f32"
        )
        heads, n = np.arange(model.n_text_head, dtype=np.int32), 8 * rows
        self._add(
            f"alignment scores, {n} tokens", layers.alignment_scores,
            [audio[0], self._values(n, d), np.zeros(n, np.int32), layer, heads],
            2.0 * n * model.n_audio_ctx * d, 0, "f32",
        )  # fmt: skip
        logits, suppress = self._values(rows, model.n_vocab), np.zeros((2, model.n_vocab))
        state, drawn = np.ones((rows, RULE_STATE_SIZE), np.int32), np.zeros(rows, np.float32)
        self._add(
            f"choose, {rows} rows", lambda plan, *given: layers.choose(plan, *given)[0],
            [logits, suppress.astype(np.float32), state, drawn, drawn, np.zeros(1, np.int32)],
            0, logits.nbytes, "f32",
        )  # fmt: skip

    def _decoder_layer(self, name: str, rows: int) -> None:
        """Norms, products and attention of a layer: one operation in int8."""
        model = self._model
        d, mlp = model.n_text_state, model.n_text_mlp
        sizes = {"self_attn.qkv": (3 * d, d), "fc1": (mlp, d), "fc2": (d, mlp)}
        weights: dict[str, Any] = {}
        for norm, *linears in layers_int8.DECODER_LAYER_PARTS:
            weights |= {f"{norm}.weight": self._values(d), f"{norm}.bias": self._values(d)}
            for linear in linears:
                n, k = sizes.get(linear, (d, d))
                parts = dict(zip(("weight", "scale"), self._matrix(n, k), strict=True))
                weights |= {f"{linear}.{part}": value for part, value in parts.items()}
                weights[f"{linear}.bias"] = self._values(n)
        text, audio = self._text_caches(rows), self._audio_caches(rows)
        slots, layer = np.arange(rows, dtype=np.int32), np.zeros(1, np.int32)

        def build(plan: Plan, sk: Any, sv: Any, ck: Any, cv: Any, x: Any, *rest: Any) -> Any:
            given = LayerWeights(tuple(weights), rest[4:])
            return layers_int8.decoder_layer(plan, (sk, sv, ck, cv), x, rest[:4], given)[0]

        tokens = [slots, self._positions(rows), slots, layer]
        inputs = [*text, *audio, self._values(rows, d), *tokens, *weights.values()]
        read = float(sum(value.nbytes for value in weights.values()))
        read += _bytes(*text) * self._text_share() + _bytes(*audio)
        self._add(name, build, inputs, 0, read, "f32")

    def _audio_caches(self, n: int) -> list[Buffer]:
        """One layer's keys and values of so many windows."""
        key, value = AUDIO_KEY_SHAPE, AUDIO_VALUE_SHAPE
        dtype = AUDIO_CACHES[self._precision]
        if dtype == "int8":
            key, value, dtype = AUDIO_KEY_BYTES_SHAPE, AUDIO_VALUE_BYTES_SHAPE, "uint8"
        return self._caches(n, dtype, key, value)

    def _text_caches(self, n: int) -> list[Buffer]:
        """One layer's keys and values of so many rows."""
        return self._caches(n, CACHES[self._precision], TEXT_KEY_SHAPE, TEXT_VALUE_SHAPE)

    def _caches(self, n: int, dtype: str, *shapes: tuple[int, ...]) -> list[Buffer]:
        heads = self._model.n_text_head
        return [Buffer.zeros((1, n, heads, *shape), DTYPES[dtype], CPU()) for shape in shapes]

    def _text_share(self) -> float:
        """What is read of a row's keys and values."""
        return (POSITION + 1) / self._model.n_text_ctx

    def _positions(self, rows: int) -> Any:
        return np.full(rows, POSITION, np.int32)

    def add_detector(self) -> None:
        """The speech detector: its frames, and its LSTM after them."""
        samples = self._values(FRAMES_PER_CALL, VAD_CONTEXT + VAD_FRAME) / 10
        weights = [DETECTOR_RULES[f"vad.{name}"].read() for name in vad.ENCODER_WEIGHTS]
        self._add("speech frames", vad.speech_gates, [samples, *weights], 0, 0, "f32")
        inputs = [
            self._values(FRAMES_PER_CALL, vad.GATES),
            np.zeros((1, *VAD_STATE_SHAPE), np.float32),
            np.array([FRAMES_PER_CALL], np.int32),
        ]
        inputs += [DETECTOR_RULES[f"vad.{name}"].read() for name in vad.LSTM_WEIGHTS]
        self._add(
            "speech LSTM", lambda plan, *given: vad.lstm(plan, *given)[0], inputs, 0, 0, "f32"
        )

    def compile(self) -> list[Case]:
        """Compile everything added."""
        session = InferenceSession(devices=[CPU()])
        compiled = session.compile(self._module, custom_extensions=[self._path])
        graphs = session.init_all(compiled, weights_registry={})
        cases = []
        for name, arguments, operations, read, kind in self._todo:
            graph = graphs[name]
            run = lambda graph=graph, arguments=arguments: graph.execute(*arguments)  # noqa: E731
            cases.append(Case(name, run, operations, read, kind))
        return cases

    def _values(self, *shape: int) -> Any:
        return self._rng.standard_normal(shape, np.float32)

    def _matrix(self, n: int, k: int) -> list[Any]:
        if self._precision != "int8":
            return [self._values(n, k).astype(self._dtype)]
        values = self._rng.integers(-127, 128, (n, k), dtype=np.int8)
        return [pack_int8(values), np.full(n, 1e-3, np.float32)]

    def _many(self, name: str, t: int, k: int, n: int, **how: Any) -> None:
        norm, residual, gelu = how.get("norm", []), "residual" in how, "gelu" in how
        matrix = self._matrix(n, k)
        rest = [self._values(1, t, n)] if residual else []

        def build(plan: Plan, x: Any, *given: Any) -> Any:
            weight = Matrix(*given[: len(matrix)])
            bias, *given = given[len(matrix) :]
            if how.get("heads"):
                return layers_int8.norm_linear_heads(plan, x, tuple(given), weight, bias)
            options = {"residual": given[0]} if residual else {"gelu": gelu}
            if norm:
                options["norm"] = tuple(given)
            return layers.linear(plan, x, weight, bias, **options)

        inputs = [self._values(1, t, k), *matrix, self._values(n), *rest, *norm]
        kind = "int8" if self._precision == "int8" else "f32"
        self._add(name, build, inputs, 2.0 * t * n * k, 0, kind)

    def _few(
        self, name: str, m: int, k: int, n: int, norm: bool = False, gelu: bool = False
    ) -> None:
        matrix = self._matrix(n, k)

        def build(plan: Plan, x: Any, bias: Any, first: Any, second: Any, *parts: Any) -> Any:
            if norm:
                return layers.norm_linear(plan, x, (first, second), Matrix(*parts), bias, gelu=gelu)
            return layers.linear_residual(plan, x, Matrix(*parts), bias, first)

        first, second = (self._values(k),) * 2 if norm else (self._values(m, n), self._values(1))
        inputs = [self._values(m, k), self._values(n), first, second, *matrix]
        self._add(name, build, inputs, 2.0 * m * n * k, float(matrix[0].nbytes), "f32")

    def _logits(self, name: str, m: int, k: int, n: int) -> None:
        matrix = self._matrix(n, k)

        def build(plan: Plan, x: Any, gamma: Any, beta: Any, *parts: Any) -> Any:
            return layers.norm_logits(plan, x, (gamma, beta), Matrix(*parts))

        if self._precision == "int8":
            values = self._rng.integers(-127, 128, (n, k), dtype=np.int8)
            matrix = [pack_halves(values), matrix[1], np.ones(k, np.float32)]
        inputs = [self._values(m, k), self._values(k), self._values(k), *matrix]
        self._add(name, build, inputs, 2.0 * m * n * k, float(matrix[0].nbytes), "f32")

    def _sieve(self, name: str, m: int, k: int, n: int) -> None:
        """The LM head where one token of each row is wanted, and likely."""
        matrix = self._values(n, k)
        values, scale = quantize_int8(matrix)
        x = matrix[self._rng.integers(0, self._tokens.eot, m)] * PEAK + self._values(m, k)
        ones, zeros = np.ones(k, np.float32), np.zeros(k, np.float32)
        stored = [pack_halves(values), scale, ones]
        asked = [sieve_bounds(values), np.ones(m, np.int32), np.zeros((2, n), np.float32)]
        asked += [np.ones((m, RULE_STATE_SIZE), np.int32), np.array([self._tokens.eot], np.int32)]

        def build(plan: Plan, x: Any, gamma: Any, beta: Any, *rest: Any) -> Any:
            embedding = Matrix(*rest[: len(stored)])
            return layers_int8.likely_logits(
                plan, x, (gamma, beta), embedding, *rest[len(stored) :]
            )

        inputs = [x, ones, zeros, *stored, *asked]
        self._add(name, build, inputs, 2.0 * m * n * k, stored[0].nbytes / 2, "f32")

    def _add(
        self, name: str, build: Any, inputs: list[Any], operations: float, read: float, kind: str
    ) -> None:
        if self._only and not any(part in name for part in self._only):
            return
        cpu = DeviceRef.CPU()
        types = [
            BufferType(value.dtype, list(value.shape), cpu)
            if isinstance(value, Buffer)
            else TensorType(DType.from_numpy(value.dtype), list(value.shape), cpu)
            for value in inputs
        ]
        with Graph(
            name, input_types=types, kernel_library=self._library, module=self._module
        ) as graph:
            values = [
                value.buffer if isinstance(kind_, BufferType) else value.tensor
                for value, kind_ in zip(graph.inputs, types, strict=True)
            ]
            graph.output(build(self._plan, *values))
        arguments = [v if isinstance(v, Buffer) else Buffer.from_numpy(v) for v in inputs]
        self._todo.append((name, arguments, operations, read, kind))


def _bytes(*caches: Buffer) -> float:
    return float(sum(cache.num_elements * cache.element_size for cache in caches))


def cases_of(
    artifact: Path, rows: Sequence[int], *, kernels: Path = KERNELS, only: Sequence[str] = ()
) -> list[Case]:
    """Every kernel at the sizes and in the precision of an artifact, ready to run.

    `rows`: how many the decoder's kernels take; `kernels` and `only` as for `Cases`.
    """
    manifest = open_artifact(artifact).manifest
    in_float16 = any(tensor.dtype == "float16" for tensor in manifest.weights[0].tensors)
    precision = manifest.targets[0].precision
    cases = Cases(manifest.spec, precision, in_float16=in_float16, kernels=kernels, only=only)
    cases.add_encoder()
    for n in rows:
        cases.add_decoder(n)
    cases.add_detector()
    return cases.compile()
