"""The kernels of the encoder and of the speech detector, at a model's sizes."""

from typing import Any

import numpy as np
from case_graphs import Cases
from max.graph import Dim

from mwc.compiler.graphs import layers, layers_int8, vad
from mwc.compiler.graphs.scope import Matrix, Plan
from mwc.compiler.quantize import LONG_GROUP
from mwc.compiler.vad_weights import DETECTOR_RULES
from mwc.runtime.decoder import VAD_CONTEXT, VAD_FRAME, VAD_STATE_SHAPE
from mwc.runtime.vad import FRAMES_PER_CALL


def add_encoder(cases: Cases) -> None:
    """The encoder's products and its attention, for one window."""
    model = cases.model
    t, d, mlp = model.n_audio_ctx, model.n_audio_state, model.n_audio_mlp
    norm = [cases.values(d), cases.values(d)]
    _many(cases, "qkv", t, d, 3 * d, norm=norm, heads=cases.plan.int8)
    _many(cases, "out_proj", t, d, d, residual=True)
    if cases.plan.int8:  # the first layer's, where values have 16 bits
        _many(cases, "first_qkv", t, d, 3 * d, norm=norm, heads=True, wide=d)
        _many(cases, "first_out_proj", t, d, d, residual=True, wide=d)
    _many(cases, "fc1", t, d, mlp, norm=norm, gelu=True)
    _many(cases, "fc2", t, mlp, d, residual=True)
    _convolution(cases, "conv1", 2 * t, model.n_mels, d, stride=1)
    _convolution(cases, "conv2", 2 * t, d, d, stride=2)
    if cases.plan.int8:
        heads = np.zeros((1, model.n_audio_head, layers_int8.head_bytes(t)), np.uint8)
        attention: Any = lambda plan, heads: layers_int8.encoder_attention(plan, heads, Dim(t))  # noqa: E731
        cases.add("attention", attention, [heads], 4.0 * t * t * d, 0, "int8")
    else:
        _many(cases, "cross_kv", t, d, 2 * model.n_text_state)
        qkv = cases.values(1, t, 3 * d)
        cases.add("attention", layers.encoder_attention, [qkv], 4.0 * t * t * d, 0, "f32")


def add_detector(cases: Cases) -> None:
    """The speech detector."""
    heard = [
        cases.values(FRAMES_PER_CALL, VAD_CONTEXT + VAD_FRAME) / 10,
        np.zeros((1, *VAD_STATE_SHAPE), np.float32),
        np.array([FRAMES_PER_CALL], np.int32),
    ]
    weights = [DETECTOR_RULES[f"vad.{name}"].read() for name in vad.ON_CPU]
    build: Any = lambda plan, *given: vad.speech(plan, *given)[0]  # noqa: E731
    cases.add("speech", build, [*heard, *weights], 0, 0, "f32")


def _many(cases: Cases, name: str, t: int, k: int, n: int, **how: Any) -> None:
    norm, residual, gelu = how.get("norm", []), "residual" in how, "gelu" in how
    matrix, wide = cases.matrix(n, k, LONG_GROUP), how.get("wide", 0)
    rests = cases.matrix(wide, k)[:1] if wide else []
    added = [cases.values(1, t, n)] if residual else []

    def build(plan: Plan, x: Any, *given: Any) -> Any:
        parts, given = given[: len(matrix)], given[len(matrix) :]
        weight = Matrix(*parts, rest=given[0] if wide else None)
        bias, *given = given[len(rests) :]
        if how.get("heads"):
            return layers_int8.norm_heads(plan, x, tuple(given), weight, bias)
        options = {"residual": given[0]} if residual else {"gelu": gelu}
        if norm:
            options["norm"] = tuple(given)
        return layers.linear(plan, x, weight, bias, **options)

    inputs = [cases.values(1, t, k), *matrix, *rests, cases.values(n), *added, *norm]
    kind = "int8" if cases.precision == "int8" else "f32"
    cases.add(name, build, inputs, 2.0 * t * (n + 2 * wide) * k, 0, kind)


def _convolution(cases: Cases, name: str, frames: int, d: int, n: int, *, stride: int) -> None:
    """One of the encoder's convolutions, of a window that is full."""
    matrix = cases.matrix(n, 3 * d, LONG_GROUP)

    def build(plan: Plan, x: Any, *given: Any) -> Any:
        *weight, bias, n_frames = given
        return layers.convolution(plan, x, Matrix(*weight), bias, n_frames, stride=stride)

    inputs = [cases.values(1, frames, d), *matrix, cases.values(n), np.array([frames], np.int32)]
    kind = "int8" if cases.precision == "int8" else "f32"
    cases.add(name, build, inputs, 6.0 * frames // stride * n * d, 0, kind)
