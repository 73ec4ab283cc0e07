"""The weight table: every tensor of an artifact, its sources in the checkpoint, and the transform.

Names equal the checkpoint's (Hugging Face's, without "model.") wherever a tensor is taken as it is;
fused ones are named for what they hold. Three transforms exist: queries take the attention scale,
projections are stacked, convolutions become matrices. The speech detector's weights, `vad.…`, are
not the checkpoint's: vad_weights.py makes them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mwc.compiler.mel import mel_filters, windowed_dft
from mwc.compiler.vad_weights import DETECTOR_RULES
from mwc.runtime.errors import WeightMismatch
from mwc.runtime.spec import ModelSpec, TensorSpec, WhisperSpec

if TYPE_CHECKING:
    from mwc.compiler.checkpoint import Tensors

Array = npt.NDArray[np.generic]
Float32 = npt.NDArray[np.float32]

PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""Precision of an artifact -> dtype of its matrices. Vectors (norms, biases) stay float32."""

QUERY_SCALE = 64.0**-0.5
"""Attention divides scores by sqrt(64); queries carry it (exactly 1/8), so no graph has to."""


@dataclass(frozen=True)
class Rule:
    """How one stored tensor is made.

    Attributes:
        shape: its sizes.
        sources: names in the checkpoint.
        make: source arrays (float32) -> the tensor, float32.
        is_matrix: whether it takes the artifact's precision; others are stored as float32.
    """

    shape: tuple[int, ...]
    sources: tuple[str, ...]
    make: Callable[..., Float32]
    is_matrix: bool


def _same(x: Float32) -> Float32:
    return x


def _scaled(x: Float32) -> Float32:
    return x * np.float32(QUERY_SCALE)


def _qkv_weight(q: Float32, k: Float32, v: Float32) -> Float32:
    return np.concatenate([_scaled(q), k, v])


def _qkv_bias(q: Float32, v: Float32) -> Float32:
    """Whisper's key projection has no bias."""
    return np.concatenate([_scaled(q), np.zeros_like(q), v])


def _kv_weight(k: Float32, v: Float32) -> Float32:
    return np.concatenate([k, v])


def _kv_bias(v: Float32) -> Float32:
    return np.concatenate([np.zeros_like(v), v])


def _convolution(x: Float32) -> Float32:
    """[out, in, 3] -> [out, 3 * in], tap by tap, to match frames laid side by side."""
    return np.ascontiguousarray(x.transpose(0, 2, 1)).reshape(len(x), -1)


def weight_rules(spec: WhisperSpec) -> dict[str, Rule]:
    """Stored name -> rule, for every tensor of the artifact, in file order."""
    model, audio = spec.model, spec.audio
    bins = audio.n_fft // 2 + 1
    state = model.n_audio_state
    rules = {
        "log_mel.dft": Rule((2 * bins, audio.n_fft), (), lambda: windowed_dft(audio), False),
        "log_mel.filters": Rule(
            (model.n_mels, bins), (), lambda: mel_filters(audio, model.n_mels), False
        ),
        **{name: Rule(rule.shape, (), rule.read, False) for name, rule in DETECTOR_RULES.items()},
        **_conv("encoder.conv1", model.n_mels, state),
        **_conv("encoder.conv2", state, state),
        **_as_is("encoder.embed_positions.weight", (model.n_audio_ctx, state), False),
        **_norm("encoder.layer_norm", state),
        **_as_is("decoder.embed_tokens.weight", (model.n_vocab, model.n_text_state), True),
        **_as_is("decoder.embed_positions.weight", (model.n_text_ctx, model.n_text_state), False),
        **_norm("decoder.layer_norm", model.n_text_state),
    }
    for i in range(model.n_audio_layer):
        rules |= _layer(f"encoder.layers.{i}", state, model.n_audio_mlp)
    for i in range(model.n_text_layer):
        rules |= _layer(f"decoder.layers.{i}", model.n_text_state, model.n_text_mlp)
        rules |= _cross_attention(f"decoder.layers.{i}", model)
    return rules


def weight_specs(spec: WhisperSpec, precision: str) -> dict[str, TensorSpec]:
    """Stored name -> TensorSpec, for a precision of PRECISIONS."""
    matrix = PRECISIONS[precision]
    return {
        name: TensorSpec(name, matrix if rule.is_matrix else "float32", rule.shape)
        for name, rule in weight_rules(spec).items()
    }


def mapped_weights(
    tensors: "Tensors", spec: WhisperSpec, precision: str
) -> Iterator[tuple[TensorSpec, Callable[[], Array]]]:
    """Every stored tensor's spec, and a function that reads, transforms and casts it.

    Raises (from the functions):
        WeightMismatch: a float16 artifact cannot hold a value of this checkpoint.
    """
    specs = weight_specs(spec, precision)
    for name, rule in weight_rules(spec).items():
        yield specs[name], _maker(tensors, rule, specs[name])


def _maker(tensors: "Tensors", rule: Rule, spec: TensorSpec) -> Callable[[], Array]:
    def make() -> Array:
        value = rule.make(*(tensors.read(source) for source in rule.sources))
        if value.shape != rule.shape:
            raise ValueError(f"{spec.name} came out as {value.shape}, not {rule.shape}")
        return cast_weight(value, spec)

    return make


def cast_weight(value: Float32, spec: TensorSpec) -> Array:
    """float32 -> the stored dtype; bfloat16 as uint16 bit patterns, rounded to nearest even."""
    if spec.dtype == "bfloat16":
        bits = np.ascontiguousarray(value, np.float32).view(np.uint32)
        rounding = ((bits >> 16) & 1) + np.uint32(0x7FFF)
        return ((bits + rounding) >> 16).astype(np.uint16)
    if spec.dtype == "float16":
        largest = float(np.abs(value).max(initial=0.0))
        if largest > float(np.finfo(np.float16).max):
            raise WeightMismatch(
                f"{spec.name} holds a value of magnitude {largest:g}, more than float16 can "
                "(65504); convert with --precision bf16 or f32"
            )
        return value.astype(np.float16)
    return np.ascontiguousarray(value, np.float32)


def _as_is(name: str, shape: tuple[int, ...], is_matrix: bool) -> Mapping[str, Rule]:
    return {name: Rule(shape, (name,), _same, is_matrix)}


def _conv(name: str, n_in: int, n_out: int) -> Mapping[str, Rule]:
    weight = f"{name}.weight"
    return {
        weight: Rule((n_out, 3 * n_in), (weight,), _convolution, True),
        **_as_is(f"{name}.bias", (n_out,), False),
    }


def _norm(name: str, state: int) -> Mapping[str, Rule]:
    return {
        **_as_is(f"{name}.weight", (state,), False),
        **_as_is(f"{name}.bias", (state,), False),
    }


def _linear(name: str, n_in: int, n_out: int) -> Mapping[str, Rule]:
    return {
        **_as_is(f"{name}.weight", (n_out, n_in), True),
        **_as_is(f"{name}.bias", (n_out,), False),
    }


def _layer(prefix: str, state: int, mlp: int) -> Mapping[str, Rule]:
    """What encoder and decoder layers share: self-attention and the feed-forward part."""
    attention = f"{prefix}.self_attn"
    q, k, v = (f"{attention}.{part}_proj" for part in "qkv")
    return {
        **_norm(f"{prefix}.self_attn_layer_norm", state),
        f"{attention}.qkv.weight": Rule(
            (3 * state, state), (f"{q}.weight", f"{k}.weight", f"{v}.weight"), _qkv_weight, True
        ),
        f"{attention}.qkv.bias": Rule((3 * state,), (f"{q}.bias", f"{v}.bias"), _qkv_bias, False),
        **_linear(f"{attention}.out_proj", state, state),
        **_norm(f"{prefix}.final_layer_norm", state),
        **_linear(f"{prefix}.fc1", state, mlp),
        **_linear(f"{prefix}.fc2", mlp, state),
    }


def _cross_attention(prefix: str, model: ModelSpec) -> Mapping[str, Rule]:
    attention = f"{prefix}.encoder_attn"
    q, k, v = (f"{attention}.{part}_proj" for part in "qkv")
    state = model.n_text_state
    return {
        **_norm(f"{prefix}.encoder_attn_layer_norm", state),
        f"{q}.weight": Rule((state, state), (f"{q}.weight",), _scaled, True),
        f"{q}.bias": Rule((state,), (f"{q}.bias",), _scaled, False),
        f"{attention}.kv.weight": Rule(
            (2 * state, model.n_audio_state), (f"{k}.weight", f"{v}.weight"), _kv_weight, True
        ),
        f"{attention}.kv.bias": Rule((2 * state,), (f"{v}.bias",), _kv_bias, False),
        **_linear(f"{attention}.out_proj", state, state),
    }
