"""Tensor names: one table per source layout, from its names to those of transformers.

Names are transformers' (`WhisperForConditionalGeneration`) without the leading "model.". A table
maps modules; `{i}` is the layer, parameters ("weight", "bias") keep their name unless the layout
renames them too. A name that no table knows stays as it is and is reported as left over.
"""

import re
from collections.abc import Mapping

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
