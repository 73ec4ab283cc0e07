"""From a checkpoint's configuration files to a `WhisperSpec`, with every fact checked.

Facts come from the files, never from a model's name. What fine-tunes often lack is derived and
noted; what contradicts itself, or what no Whisper has, is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mwc.compiler.checkpoint.types import Checkpoint
from mwc.compiler.config_tokens import read_tokens, refuse, vocabulary_problems
from mwc.runtime.spec import AudioSpec, ModelSpec, WhisperSpec

HEAD_SIZE = 64
"""Width of one attention head in every Whisper (openai/whisper, paper table 1)."""


@dataclass(frozen=True)
class _Dimension:
    """A count in config.json: its key, the `ModelSpec` field, and the values allowed.

    `multiple`: what it has to be a multiple of, as the kernels read whole registers and tiles.
    """

    key: str
    field: str
    allowed: tuple[int, ...] = ()
    multiple: int = 1


DIMENSIONS = (
    _Dimension("num_mel_bins", "n_mels", (80, 128)),
    _Dimension("max_source_positions", "n_audio_ctx", (1500,)),
    _Dimension("d_model", "n_audio_state"),
    _Dimension("encoder_attention_heads", "n_audio_head"),
    _Dimension("encoder_layers", "n_audio_layer"),
    _Dimension("encoder_ffn_dim", "n_audio_mlp", multiple=64),
    _Dimension("vocab_size", "n_vocab"),
    _Dimension("max_target_positions", "n_text_ctx", (448,)),
    _Dimension("d_model", "n_text_state"),
    _Dimension("decoder_attention_heads", "n_text_head"),
    _Dimension("decoder_layers", "n_text_layer"),
    _Dimension("decoder_ffn_dim", "n_text_mlp", multiple=64),
)

ARCHITECTURES = ("WhisperForConditionalGeneration", "WhisperModel")

CONFIG_CONSTANTS: Mapping[str, Any] = {
    "model_type": "whisper",
    "activation_function": "gelu",
    "scale_embedding": False,
    "tie_word_embeddings": True,
}
"""What config.json must say of these; transformers' `WhisperConfig` has the same as defaults."""

PREPROCESSOR_CONSTANTS: Mapping[str, Any] = {
    "sampling_rate": 16000,
    "n_fft": 400,
    "hop_length": 160,
    "chunk_length": 30,
    "dither": 0.0,
}
"""What preprocessor_config.json must say of these (openai/whisper `audio.py`; no dithering)."""


def read_spec(checkpoint: Checkpoint) -> tuple[WhisperSpec, tuple[str, ...]]:
    """Derive everything the compiler and the runtime need to know of a model.

    Returns:
        The spec, and notes for people on all that was derived or is unusual.

    Raises:
        UnsupportedModel: with one line per thing that no Whisper has, that is missing, or that
            contradicts another file.
    """
    notes: list[str] = []
    problems = [*_architecture_problems(checkpoint), *_dimension_problems(checkpoint)]
    refuse(checkpoint, problems)
    model = ModelSpec(**{d.field: checkpoint.config[d.key] for d in DIMENSIONS})
    problems = [*_width_problems(model), *_audio_problems(checkpoint, model, notes)]
    problems += vocabulary_problems(checkpoint)
    refuse(checkpoint, problems)
    tokens = read_tokens(checkpoint, model, notes)
    return WhisperSpec(model=model, audio=AudioSpec(), tokens=tokens), tuple(notes)


def _architecture_problems(checkpoint: Checkpoint) -> list[str]:
    config = checkpoint.config
    found = {"model_type": None, **config}
    problems = [
        f"{key} is {found[key]!r}, not {value!r}"
        for key, value in CONFIG_CONSTANTS.items()
        if key in found and found[key] != value
    ]
    architectures = config.get("architectures") or list(ARCHITECTURES)
    if not isinstance(architectures, list) or not any(a in ARCHITECTURES for a in architectures):
        problems.append(f"its architecture is {architectures}, not {ARCHITECTURES[0]}")
    return problems


def _dimension_problems(checkpoint: Checkpoint) -> list[str]:
    problems = []
    n_tensors = len(checkpoint.tensors.shapes)
    for dimension in {d.key: d for d in DIMENSIONS}.values():
        value = checkpoint.config.get(dimension.key)
        if type(value) is not int or value < 1:
            problems.append(f"{dimension.key} is {value!r}, not a positive number")
        elif dimension.allowed and value not in dimension.allowed:
            allowed = " or ".join(map(str, dimension.allowed))
            problems.append(f"{dimension.key} is {value}, not {allowed}")
        elif dimension.key.endswith("_layers") and value > n_tensors:
            problems.append(f"{dimension.key} is {value}, of a checkpoint of {n_tensors} tensors")
        elif value % dimension.multiple:
            problems.append(f"{dimension.key} is {value}, no multiple of {dimension.multiple}")
    return problems


def _width_problems(model: ModelSpec) -> list[str]:
    return [
        f"{stack}_attention_heads is {heads}, which makes heads of {model.n_audio_state / heads:g} "
        f"of a d_model of {model.n_audio_state}, not of {HEAD_SIZE}"
        for stack, heads in (("encoder", model.n_audio_head), ("decoder", model.n_text_head))
        if heads * HEAD_SIZE != model.n_audio_state
    ]


def _audio_problems(checkpoint: Checkpoint, model: ModelSpec, notes: list[str]) -> list[str]:
    stated = checkpoint.preprocessor_config
    if not stated:
        if checkpoint.origin.kind in ("hub", "folder"):
            notes.append(
                f"no preprocessor_config.json: {model.n_mels} mel bins taken from config.json, "
                "the rest is the same in every Whisper"
            )
        return []
    constants = {**PREPROCESSOR_CONSTANTS, "feature_size": model.n_mels}
    return [
        f"preprocessor_config.json has {key} {stated[key]!r}, not {value!r}"
        for key, value in constants.items()
        if key in stated and stated[key] != value
    ]
