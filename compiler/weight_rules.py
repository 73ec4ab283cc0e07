"""The weight table: every tensor of an artifact, its sources in the checkpoint, and the transform.

Names equal the checkpoint's (Hugging Face's, without "model.") wherever a tensor is taken as it is;
fused ones are named for what they hold. Three transforms exist: queries take the attention scale,
projections are stacked, convolutions become matrices. The speech detector's weights, `vad.…`, are
not the checkpoint's: vad_weights.py makes them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mwc.compiler.int8_parts import Int8Form
from mwc.compiler.mel import mel_bands, mel_filters, windowed_dft
from mwc.compiler.quantize import GROUP_TERMS, LONG_GROUP
from mwc.compiler.spectrum import LANES, factor_rows, spectrum_factors
from mwc.compiler.vad_weights import DETECTOR_RULES
from mwc.runtime.spec import ModelSpec, WhisperSpec

Float32 = npt.NDArray[np.float32]

EMBEDDING = "decoder.embed_tokens.weight"

DECODER_LAYERS = "decoder.layers"
"""What the decoder layers' weights are named with: "decoder.layers.0.fc1.weight". In int8, what a
step reads of them is stored stacked, with the layers as first axis, for the kernel that runs them
all: "decoder.layers.fc1.weight" (kernels/decoder_layers_int8.mojo)."""

DRAFT = "draft."
"""What the int8 copies of a float32 model's matrices are named with, which its CPU graphs draft
tokens by (graphs/drafted_steps.py): "draft.decoder.layers.fc1.weight"."""

QUERY_SCALE = 64.0**-0.5
"""Attention divides scores by sqrt(64); queries carry it (exactly 1/8), so no graph has to."""


@dataclass(frozen=True)
class Rule:
    """How one stored tensor is made.

    Attributes:
        shape: its sizes.
        sources: names in the checkpoint.
        make: source arrays (float32) -> the tensor, float32.
        int8: how it is stored in int8, of a matrix, which takes the artifact's precision; None:
            it is stored as float32 always.
    """

    shape: tuple[int, ...]
    sources: tuple[str, ...]
    make: Callable[..., Float32]
    int8: Int8Form | None = None

    @property
    def is_matrix(self) -> bool:
        """Whether it takes the artifact's precision."""
        return self.int8 is not None


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
        "log_mel.dft": Rule((2 * bins, audio.n_fft), (), lambda: windowed_dft(audio)),
        "log_mel.factors": Rule(
            (factor_rows(audio.n_fft), LANES), (), lambda: spectrum_factors(audio.n_fft)
        ),
        "log_mel.filters": Rule((model.n_mels, bins), (), lambda: mel_filters(audio, model.n_mels)),
        "log_mel.bands": Rule((bins, model.n_mels), (), lambda: mel_bands(audio, model.n_mels)),
        **{name: Rule(rule.shape, (), rule.read) for name, rule in DETECTOR_RULES.items()},
        **_conv("encoder.conv1", model.n_mels, state),
        **_conv("encoder.conv2", state, state),
        **_as_is("encoder.embed_positions.weight", (model.n_audio_ctx, state)),
        **_norm("encoder.layer_norm", state),
        EMBEDDING: Rule(
            (model.n_vocab, model.n_text_state),
            (EMBEDDING,),
            _same,
            Int8Form(is_embedding=True, rests=model.n_vocab),
        ),
        **_as_is("decoder.embed_positions.weight", (model.n_text_ctx, model.n_text_state)),
        **_norm("decoder.layer_norm", model.n_text_state),
    }
    for i in range(model.n_audio_layer):
        # Layers make what the first one's values are off by several times as much.
        rests = state if i == 0 else 0
        rules |= _layer(f"encoder.layers.{i}", state, model.n_audio_mlp, fits=True, rests=rests)
    for i in range(model.n_text_layer):
        rules |= _layer(f"decoder.layers.{i}", model.n_text_state, model.n_text_mlp, fits=False)
        rules |= _cross_attention(f"decoder.layers.{i}", model)
    return rules


def draft_rules(spec: WhisperSpec) -> dict[str, Rule]:
    """Stored name -> rule of the copies that tokens are drafted by: what a step reads.

    Not the projection of keys and values, which those of the model itself are rounded from. What is
    drafted is checked, so its token embedding has no rests.
    """
    return {
        DRAFT + name: _without_rests(rule)
        for name, rule in weight_rules(spec).items()
        if name == EMBEDDING or is_stacked(name)
    }


def _without_rests(rule: Rule) -> Rule:
    return rule if rule.int8 is None else replace(rule, int8=replace(rule.int8, rests=0))


def is_stacked(name: str) -> bool:
    """Whether a tensor is stacked in int8: what a step reads of the decoder's layers."""
    is_for_encode = ".encoder_attn.kv." in name
    return name.removeprefix(DRAFT).startswith(f"{DECODER_LAYERS}.") and not is_for_encode


def role(name: str) -> str:
    """A weight's name without its layer's number: what namesakes have in common."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def _as_is(name: str, shape: tuple[int, ...]) -> Mapping[str, Rule]:
    return {name: Rule(shape, (name,), _same)}


def _conv(name: str, n_in: int, n_out: int) -> Mapping[str, Rule]:
    weight = f"{name}.weight"
    form = Int8Form(fits=True, group_terms=LONG_GROUP)
    return {
        weight: Rule((n_out, 3 * n_in), (weight,), _convolution, form),
        **_as_is(f"{name}.bias", (n_out,)),
    }


def _norm(name: str, state: int) -> Mapping[str, Rule]:
    return {**_as_is(f"{name}.weight", (state,)), **_as_is(f"{name}.bias", (state,))}


def _linear(name: str, n_in: int, n_out: int, form: Int8Form) -> Mapping[str, Rule]:
    weight = f"{name}.weight"
    return {
        weight: Rule((n_out, n_in), (weight,), _same, form),
        **_as_is(f"{name}.bias", (n_out,)),
    }


def _layer(prefix: str, state: int, mlp: int, *, fits: bool, rests: int = 0) -> Mapping[str, Rule]:
    """What encoder and decoder layers share: self-attention and the feed-forward part.

    `rests`: of how many of the rows that make values and of those behind attention.
    """
    attention = f"{prefix}.self_attn"
    q, k, v = (f"{attention}.{part}_proj" for part in "qkv")
    qkv = tuple(f"{part}.weight" for part in (q, k, v))
    form = Int8Form(fits=fits, group_terms=LONG_GROUP if fits else GROUP_TERMS)
    wide = replace(form, rests=rests)
    return {
        **_norm(f"{prefix}.self_attn_layer_norm", state),
        f"{attention}.qkv.weight": Rule((3 * state, state), qkv, _qkv_weight, wide),
        f"{attention}.qkv.bias": Rule((3 * state,), (f"{q}.bias", f"{v}.bias"), _qkv_bias),
        **_linear(f"{attention}.out_proj", state, state, wide),
        **_norm(f"{prefix}.final_layer_norm", state),
        **_linear(f"{prefix}.fc1", state, mlp, replace(form, group_terms=0) if fits else form),
        **_linear(f"{prefix}.fc2", mlp, state, form),
    }


def _cross_attention(prefix: str, model: ModelSpec) -> Mapping[str, Rule]:
    attention = f"{prefix}.encoder_attn"
    q, k, v = (f"{attention}.{part}_proj" for part in "qkv")
    state = model.n_text_state
    kv = (f"{k}.weight", f"{v}.weight")
    form = Int8Form(group_terms=GROUP_TERMS)
    return {
        **_norm(f"{prefix}.encoder_attn_layer_norm", state),
        f"{q}.weight": Rule((state, state), (f"{q}.weight",), _scaled, form),
        f"{q}.bias": Rule((state,), (f"{q}.bias",), _scaled),
        f"{attention}.kv.weight": Rule(
            (2 * state, model.n_audio_state), kv, _kv_weight, Int8Form(fits=True)
        ),
        f"{attention}.kv.bias": Rule((2 * state,), (f"{v}.bias",), _kv_bias),
        **_linear(f"{attention}.out_proj", state, state, form),
    }
