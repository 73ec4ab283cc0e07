"""The weight table: every tensor of an artifact, its sources in the checkpoint, and the transform.

Names equal the checkpoint's (Hugging Face's, without "model.") wherever a tensor is taken as it is;
fused ones are named for what they hold. Three transforms exist: queries take the attention scale,
projections are stacked, convolutions become matrices. What a matrix becomes with int8 is the matter
of int8_parts.py. The speech detector's weights, `vad.…`, are not the checkpoint's: vad_weights.py
makes them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mwc.compiler.int8_parts import Int8Form, Quantizer, int8_parts
from mwc.compiler.mel import mel_bands, mel_filters, windowed_dft
from mwc.compiler.quantize import GROUP_TERMS, LONG_GROUP, fits_packed
from mwc.compiler.spectrum import LANES, factor_rows, spectrum_factors
from mwc.compiler.vad_weights import DETECTOR_RULES
from mwc.runtime.errors import WeightMismatch
from mwc.runtime.spec import ModelSpec, TensorSpec, WhisperSpec

if TYPE_CHECKING:
    from mwc.compiler.checkpoint import Tensors

Array = npt.NDArray[np.generic]
Float32 = npt.NDArray[np.float32]

PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "int8": "int8"}
"""Precision of an artifact -> dtype of its matrices. Vectors (norms, biases) stay float32.

An f32 artifact holds those matrices as float16 that lose nothing by it (`exact_in_float16`).
"""

CACHES = {**PRECISIONS, "int8": "float16"}
"""Precision of an artifact -> dtype of its self-attention caches."""

AUDIO_CACHES = PRECISIONS
"""Precision of an artifact -> what its cross-attention caches hold: nearly all that is cached."""

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
        if name == EMBEDDING or _is_stacked(name)
    }


def _without_rests(rule: Rule) -> Rule:
    return rule if rule.int8 is None else replace(rule, int8=replace(rule.int8, rests=0))


def _is_stacked(name: str) -> bool:
    """Whether a tensor is stacked in int8: what a step reads of the decoder's layers."""
    is_for_encode = ".encoder_attn.kv." in name
    return name.removeprefix(DRAFT).startswith(f"{DECODER_LAYERS}.") and not is_for_encode


@dataclass(frozen=True)
class Stored:
    """One or more rules that are stored together.

    Attributes:
        name: the name that is stored.
        rules: by their own names.
        is_stacked: whether what is stored has them as first axis; else it is one.
    """

    name: str
    rules: tuple[tuple[str, Rule], ...]
    is_stacked: bool

    @property
    def rule(self) -> Rule:
        """What all of the rules are like but for their sources."""
        return self.rules[0][1]

    def shape(self, sizes: tuple[int | str, ...]) -> tuple[int | str, ...]:
        """The shape of what is of those sizes in each rule."""
        return (len(self.rules), *sizes) if self.is_stacked else sizes

    def put_together(self, arrays: Sequence[Array]) -> Array:
        """What is stored of an array for each rule."""
        return np.stack(arrays) if self.is_stacked else arrays[0]


def _stored_together(rules: Mapping[str, Rule], precision: str) -> list[Stored]:
    """What is stored of the rules, in file order, for a precision."""
    members: dict[tuple[str, bool], list[tuple[str, Rule]]] = {}
    for name, rule in rules.items():
        is_stacked = precision == "int8" and _is_stacked(name)
        key = (_role(name) if is_stacked else name, is_stacked)
        members.setdefault(key, []).append((name, rule))
    return [Stored(name, tuple(of), is_stacked) for (name, is_stacked), of in members.items()]


def weight_specs(
    spec: WhisperSpec, precision: str, *, drafts: bool = False
) -> dict[str, TensorSpec]:
    """Stored name -> TensorSpec, for a precision of PRECISIONS; with copies to draft by."""
    kinds = [(weight_rules(spec), precision), (draft_rules(spec) if drafts else {}, "int8")]
    return {
        tensor.name: tensor
        for rules, precision in kinds
        for stored in _stored_together(rules, precision)
        for tensor in _specs_of(stored, precision)
    }


def _specs_of(stored: Stored, precision: str) -> tuple[TensorSpec, ...]:
    """What is stored: a tensor; of int8 matrices their parts."""
    rule = stored.rule
    if rule.int8 is None or precision != "int8":
        return (_spec_of(stored, precision),)
    parts = int8_parts(stored.name, rule.shape, rule.int8)
    return tuple(_stacked_spec(stored, part.spec) for part in parts)


def _spec_of(stored: Stored, precision: str) -> TensorSpec:
    """What is stored as one tensor."""
    rule = stored.rule
    dtype = PRECISIONS[precision] if rule.is_matrix else "float32"
    return TensorSpec(stored.name, dtype, stored.shape(rule.shape))


def _stacked_spec(stored: Stored, spec: TensorSpec) -> TensorSpec:
    return replace(spec, shape=stored.shape(spec.shape))


def mapped_weights(
    tensors: "Tensors",
    spec: WhisperSpec,
    precision: str,
    *,
    vnni: bool = False,
    drafts: bool = False,
) -> Iterator[tuple[TensorSpec, Callable[[], Array]]]:
    """Every stored tensor's spec, and a function that reads, transforms and casts it.

    The parts of an int8 matrix follow each other, and functions called in that order quantize it
    once (`Quantizer`); called in another one they give the same.

    `vnni`: only CPUs with VNNI will use them, so that int8 values need not fit others. The step
    between two values of an encoder's matrix is 28 % smaller then on average (tiny.en, base).
    `drafts`: with the copies that tokens are drafted by.

    Raises (from the functions):
        WeightMismatch: a float16 artifact cannot hold a value of this checkpoint.
    """
    halves = exact_in_float16(tensors, spec) if precision == "f32" else frozenset()
    quantizer = Quantizer()
    for stored in _stored_together(weight_rules(spec), precision):
        kind = "f16" if stored.name in halves else precision
        yield from _made_parts(tensors, _for_vnni(stored) if vnni else stored, kind, quantizer)
    for stored in _stored_together(draft_rules(spec) if drafts else {}, "int8"):
        yield from _made_parts(tensors, stored, "int8", quantizer)


def _for_vnni(stored: Stored) -> Stored:
    """The same, but that its int8 values need not fit CPUs without VNNI."""
    rules = (
        (name, rule if rule.int8 is None else replace(rule, int8=replace(rule.int8, fits=False)))
        for name, rule in stored.rules
    )
    return replace(stored, rules=tuple(rules))


def _made_parts(
    tensors: "Tensors", stored: Stored, precision: str, quantizer: Quantizer
) -> Iterator[tuple[TensorSpec, Callable[[], Array]]]:
    """What is stored, each with a function that makes it."""
    reads = [partial(_made, tensors, name, rule) for name, rule in stored.rules]
    rule = stored.rule
    if rule.int8 is None or precision != "int8":
        spec = _spec_of(stored, precision)
        yield spec, lambda: stored.put_together([cast_weight(read(), spec) for read in reads])
    else:
        for part in int8_parts(stored.name, rule.shape, rule.int8):
            make = partial(quantizer.make, part, stored.name, rule.int8, reads)
            yield _stacked_spec(stored, part.spec), partial(_put_together, stored, make)


def _put_together(stored: Stored, make: Callable[[], list[Array]]) -> Array:
    return stored.put_together(make())


def exact_in_float16(tensors: "Tensors", spec: WhisperSpec) -> frozenset[str]:
    """The matrices that float16 holds without loss, as it does their namesakes of other layers.

    OpenAI published its models in float16, whatever dtype a checkpoint has now. All of them are
    such but those that hold the queries, whose smallest values an eighth takes out of its range.
    Kernels widen what they read, so a step reads half of the bytes and computes the same.
    """
    matrices = {name: rule for name, rule in weight_rules(spec).items() if rule.is_matrix}
    inexact: set[str] = set()
    for name, rule in matrices.items():
        if _role(name) not in inexact and not _is_of_halves(_made(tensors, name, rule)):
            inexact.add(_role(name))
    return frozenset(name for name in matrices if _role(name) not in inexact)


def _role(name: str) -> str:
    """A weight's name without its layer's number: what namesakes have in common."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def _is_of_halves(value: Float32) -> bool:
    """Whether float16 has every value of it."""
    with np.errstate(over="ignore"):
        return bool(np.array_equal(value.astype(np.float16).astype(np.float32), value))


def _made(tensors: "Tensors", name: str, rule: Rule) -> Float32:
    """A rule's tensor, in float32."""
    value = rule.make(*(tensors.read(source) for source in rule.sources))
    if value.shape != rule.shape:
        raise ValueError(f"{name} came out as {value.shape}, not {rule.shape}")
    return value


def fit_without_vnni(weights: Mapping[str, Array], spec: WhisperSpec) -> bool:
    """Whether stored int8 weights can be used by CPUs without VNNI."""
    rules = weight_rules(spec)
    return all(
        fits_packed(weights[name]) for name, rule in rules.items() if rule.int8 and rule.int8.fits
    )


def cast_weight(value: Float32, spec: TensorSpec) -> Array:
    """float32 -> the stored dtype; bfloat16 as uint16 bit patterns, rounded to nearest even.

    Raises:
        WeightMismatch: a value is too large for float16.
    """
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
