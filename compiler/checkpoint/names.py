"""Tensor names: what a Whisper must hold, and one table per source layout that maps to it.

Names are transformers' (`WhisperForConditionalGeneration`) without the leading "model.". A table
maps modules; `{i}` is the layer, parameters ("weight", "bias") keep their name unless the layout
renames them too. A name that no table knows stays as it is and is reported as left over.
"""

import re
from collections.abc import Mapping

from mwc.compiler.checkpoint.types import Checkpoint
from mwc.runtime.errors import WeightMismatch
from mwc.runtime.spec import ModelSpec, WhisperSpec

_ATTENTIONS = {"encoder": ("self_attn",), "decoder": ("self_attn", "encoder_attn")}

_ENCODER_LAYER = {
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "attn_ln": "self_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_ln": "final_layer_norm",
}
_CROSS_ATTENTION = {
    "cross_attn.query": "encoder_attn.q_proj",
    "cross_attn.key": "encoder_attn.k_proj",
    "cross_attn.value": "encoder_attn.v_proj",
    "cross_attn.out": "encoder_attn.out_proj",
    "cross_attn_ln": "encoder_attn_layer_norm",
}


def _in_layers(prefix: str, to: str, table: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{ours}": f"{to}.{theirs}" for ours, theirs in table.items()}


OPENAI: Mapping[str, str] = {
    "encoder.conv1": "encoder.conv1",
    "encoder.conv2": "encoder.conv2",
    "encoder.ln_post": "encoder.layer_norm",
    "encoder.positional_embedding": "encoder.embed_positions.weight",
    "decoder.token_embedding": "decoder.embed_tokens",
    "decoder.positional_embedding": "decoder.embed_positions.weight",
    "decoder.ln": "decoder.layer_norm",
    **_in_layers("encoder.blocks.{i}", "encoder.layers.{i}", _ENCODER_LAYER),
    **_in_layers("decoder.blocks.{i}", "decoder.layers.{i}", _ENCODER_LAYER | _CROSS_ATTENTION),
}
"""openai/whisper `whisper/model.py`; whisper.cpp keeps these names in its files."""

CT2_PARAMETERS = {"gamma": "weight", "beta": "bias"}

CTRANSLATE2: Mapping[str, tuple[str, ...]] = {
    "encoder/conv1": ("encoder.conv1",),
    "encoder/conv2": ("encoder.conv2",),
    "encoder/layer_norm": ("encoder.layer_norm",),
    "encoder/position_encodings/encodings": ("encoder.embed_positions.weight",),
    "decoder/embeddings": ("decoder.embed_tokens",),
    "decoder/position_encodings/encodings": ("decoder.embed_positions.weight",),
    "decoder/layer_norm": ("decoder.layer_norm",),
    **{
        f"{stack}/layer_{{i}}/{ours}": tuple(f"{stack}.layers.{{i}}.{name}" for name in theirs)
        for stack in ("encoder", "decoder")
        for ours, theirs in {
            "self_attention/layer_norm": ("self_attn_layer_norm",),
            "self_attention/linear_0": tuple(f"self_attn.{x}_proj" for x in ("q", "k", "v")),
            "self_attention/linear_1": ("self_attn.out_proj",),
            "attention/layer_norm": ("encoder_attn_layer_norm",),
            "attention/linear_0": ("encoder_attn.q_proj",),
            "attention/linear_1": tuple(f"encoder_attn.{x}_proj" for x in ("k", "v")),
            "attention/linear_2": ("encoder_attn.out_proj",),
            "ffn/layer_norm": ("final_layer_norm",),
            "ffn/linear_0": ("fc1",),
            "ffn/linear_1": ("fc2",),
        }.items()
    },
}
"""CTranslate2 `python/ctranslate2/specs/whisper_spec.py`; several names mean rows one after the
other in equal parts (fused projections)."""


def split_layer(name: str) -> tuple[str, str]:
    """Replace the layer number by `{i}` and return it too ("" where there is none)."""
    found = re.search(r"(?<=[._])\d+(?=[./])", name)
    if not found:
        return name, ""
    return f"{name[: found.start()]}{{i}}{name[found.end() :]}", found[0]


def from_openai(name: str) -> str:
    """Transformers' name of an openai/whisper tensor; unknown names stay as they are."""
    pattern, layer = split_layer(name)
    if pattern in OPENAI:
        return OPENAI[pattern]
    module, _, parameter = pattern.rpartition(".")
    if module not in OPENAI:
        return name
    return f"{OPENAI[module]}.{parameter}".replace("{i}", layer)


def from_ctranslate2(name: str) -> tuple[str, ...]:
    """Transformers' names of the equal parts of a CTranslate2 variable; () for an unknown one."""
    pattern, layer = split_layer(name)
    if pattern in CTRANSLATE2:
        return CTRANSLATE2[pattern]
    module, _, parameter = pattern.rpartition("/")
    ending = CT2_PARAMETERS.get(parameter, parameter)
    return tuple(f"{to}.{ending}".replace("{i}", layer) for to in CTRANSLATE2.get(module, ()))


def expected_tensors(model: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor a Whisper of these dimensions holds, with its shape.

    Key projections have no bias; the LM head is the token embedding.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    d = model.n_audio_state

    def linear(name: str, rows: int, columns: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (rows,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (d,)

    for name, channels in (("encoder.conv1", model.n_mels), ("encoder.conv2", d)):
        shapes[f"{name}.weight"] = (d, channels, 3)
        shapes[f"{name}.bias"] = (d,)
    shapes["encoder.embed_positions.weight"] = (model.n_audio_ctx, d)
    shapes["decoder.embed_tokens.weight"] = (model.n_vocab, d)
    shapes["decoder.embed_positions.weight"] = (model.n_text_ctx, d)
    stacks = (
        ("encoder", model.n_audio_layer, model.n_audio_mlp),
        ("decoder", model.n_text_layer, model.n_text_mlp),
    )
    for stack, n_layers, mlp in stacks:
        for i in range(n_layers):
            layer = f"{stack}.layers.{i}"
            for attention in _ATTENTIONS[stack]:
                for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    bias = projection != "k_proj"
                    linear(f"{layer}.{attention}.{projection}", d, d, bias)
                norm(f"{layer}.{attention}_layer_norm")
            linear(f"{layer}.fc1", mlp, d)
            linear(f"{layer}.fc2", d, mlp)
            norm(f"{layer}.final_layer_norm")
        norm(f"{stack}.layer_norm")
    return shapes


def check_tensors(checkpoint: Checkpoint, spec: WhisperSpec) -> None:
    """Check that the checkpoint holds exactly the tensors its configuration asks for.

    Raises:
        WeightMismatch: with one line for everything missing, left over or of another shape.
    """
    expected, found = expected_tensors(spec.model), checkpoint.tensors.shapes
    problems = [
        f"missing: {name} {list(expected[name])}" for name in sorted(expected.keys() - found.keys())
    ]
    problems += [f"left over: {n} {list(found[n])}" for n in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} has shape {list(found[name])}, not {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in found and found[name] != shape
    ]
    if problems:
        raise WeightMismatch(
            f"the tensors of {checkpoint.origin.source} do not fit its configuration:\n  "
            + "\n  ".join(problems)
        )
