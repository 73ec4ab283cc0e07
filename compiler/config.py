"""From a checkpoint's configuration files to a `WhisperSpec`, with every fact checked.

Facts come from the files, never from a model's name. What fine-tunes often lack is derived and
noted; what contradicts itself, or what no Whisper has, is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mwc.compiler.checkpoint.names import check_tensors, expected_tensors
from mwc.compiler.checkpoint.types import Checkpoint
from mwc.compiler.vocabulary import (
    ALIASES,
    EOT,
    NO_SPEECH,
    NO_TIMESTAMPS,
    SOT,
    SOT_PREV,
    TRANSCRIBE,
    TRANSLATE,
    Vocabulary,
    timestamp_name,
)
from mwc.runtime.errors import UnsupportedModel
from mwc.runtime.spec import AudioSpec, ModelSpec, TokenSpec, WhisperSpec

__all__ = ["check_tensors", "expected_tensors", "read_spec"]

HEAD_SIZE = 64
"""Width of one attention head in every Whisper (openai/whisper, paper table 1)."""

MAX_INITIAL_TIMESTAMP_INDEX = 50
"""1 s; openai/whisper `decoding.py`, `DecodingOptions.max_initial_timestamp`."""


@dataclass(frozen=True)
class _Dimension:
    """A count in config.json: its key, the `ModelSpec` field, and the values allowed."""

    key: str
    field: str
    allowed: tuple[int, ...] = ()


DIMENSIONS = (
    _Dimension("num_mel_bins", "n_mels", (80, 128)),
    _Dimension("max_source_positions", "n_audio_ctx", (1500,)),
    _Dimension("d_model", "n_audio_state"),
    _Dimension("encoder_attention_heads", "n_audio_head"),
    _Dimension("encoder_layers", "n_audio_layer"),
    _Dimension("encoder_ffn_dim", "n_audio_mlp"),
    _Dimension("vocab_size", "n_vocab"),
    _Dimension("max_target_positions", "n_text_ctx", (448,)),
    _Dimension("d_model", "n_text_state"),
    _Dimension("decoder_attention_heads", "n_text_head"),
    _Dimension("decoder_layers", "n_text_layer"),
    _Dimension("decoder_ffn_dim", "n_text_mlp"),
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

STATED_IDS: Mapping[str, str] = {
    "no_timestamps_token_id": NO_TIMESTAMPS,
    "prev_sot_token_id": SOT_PREV,
    "decoder_start_token_id": SOT,
    "eos_token_id": EOT,
}
"""Ids that generation_config.json repeats from the vocabulary."""


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
    _refuse(checkpoint, problems)
    model = ModelSpec(**{d.field: checkpoint.config[d.key] for d in DIMENSIONS})
    problems = [*_width_problems(model), *_audio_problems(checkpoint, model, notes)]
    problems += _vocabulary_problems(checkpoint)
    _refuse(checkpoint, problems)
    tokens = _tokens(checkpoint, model, notes)
    return WhisperSpec(model=model, audio=AudioSpec(), tokens=tokens), tuple(notes)


def _refuse(checkpoint: Checkpoint, problems: list[str]) -> None:
    """Raise UnsupportedModel where there is any problem."""
    if problems:
        head = f"{checkpoint.origin.source} is not a Whisper that mwc can compile: "
        raise UnsupportedModel(head + "; ".join(problems) + ".")


def _architecture_problems(checkpoint: Checkpoint) -> list[str]:
    config = checkpoint.config
    found = {"model_type": None, **config}
    problems = [
        f"{key} is {found[key]!r}, not {value!r}"
        for key, value in CONFIG_CONSTANTS.items()
        if key in found and found[key] != value
    ]
    architectures = config.get("architectures") or ARCHITECTURES
    if not set(architectures) & set(ARCHITECTURES):
        problems.append(f"its architecture is {architectures}, not {ARCHITECTURES[0]}")
    return problems


def _dimension_problems(checkpoint: Checkpoint) -> list[str]:
    problems = []
    for dimension in {d.key: d for d in DIMENSIONS}.values():
        value = checkpoint.config.get(dimension.key)
        if type(value) is not int or value < 1:
            problems.append(f"{dimension.key} is {value!r}, not a positive number")
        elif dimension.allowed and value not in dimension.allowed:
            allowed = " or ".join(map(str, dimension.allowed))
            problems.append(f"{dimension.key} is {value}, not {allowed}")
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


def _vocabulary_problems(checkpoint: Checkpoint) -> list[str]:
    """Ids that generation_config.json and the vocabulary state differently."""
    generation, special = checkpoint.generation_config, checkpoint.vocabulary.special_tokens
    pairs = [
        (f"{key} {generation[key]}", name, generation[key])
        for key, name in STATED_IDS.items()
        if generation.get(key) is not None
    ]
    pairs += [
        (f"lang_to_id {name} {i}", ALIASES.get(name, name), i)
        for name, i in (generation.get("lang_to_id") or {}).items()
    ]
    pairs += [
        (f"task_to_id {task} {i}", f"<|{task}|>", i)
        for task, i in (generation.get("task_to_id") or {}).items()
    ]
    return [
        f"generation_config.json has {text}, but the vocabulary gives {name} "
        + (f"the id {special[name]}" if name in special else "no id")
        for text, name, i in pairs
        if i != special.get(name) and i != [special.get(name)]
    ]


def _tokens(checkpoint: Checkpoint, model: ModelSpec, notes: list[str]) -> TokenSpec:
    """Special tokens and suppression lists."""
    generation, vocabulary = checkpoint.generation_config, checkpoint.vocabulary
    special = vocabulary.special_tokens
    multilingual = _is_multilingual(checkpoint, notes)
    lacking = [name for name in (TRANSCRIBE, TRANSLATE) if multilingual and name not in special]
    _refuse(checkpoint, [f"it is multilingual, but its vocabulary has no {n}" for n in lacking])
    heads, derived = _alignment_heads(checkpoint, model, notes)
    if model.n_vocab > vocabulary.n_ids:
        notes.append(
            f"{model.n_vocab - vocabulary.n_ids} of {model.n_vocab} ids have no token "
            f"({vocabulary.n_ids} and up); they stand for no text"
        )
    last = special[timestamp_name(1500)]
    extra = [name for name, i in special.items() if i > last]
    if extra:
        notes.append(f"tokens added after the timestamps are never text: {', '.join(extra[:5])}")
    return TokenSpec(
        eot=special[EOT],
        sot=special[SOT],
        sot_prev=special[SOT_PREV],
        no_speech=special[NO_SPEECH],
        no_timestamps=special[NO_TIMESTAMPS],
        timestamp_begin=special[timestamp_name(0)],
        transcribe=special[TRANSCRIBE] if multilingual else None,
        translate=special[TRANSLATE] if multilingual else None,
        languages=_languages(checkpoint, notes) if multilingual else (),
        suppress_tokens=_suppress_tokens(checkpoint, model, notes),
        begin_suppress_tokens=_id_list(
            checkpoint,
            "begin_suppress_tokens",
            model,
            lambda: (*vocabulary.encode(" "), special[EOT]),
            notes,
        ),
        max_initial_timestamp_index=_max_initial_timestamp_index(generation, checkpoint, notes),
        alignment_heads=heads,
        alignment_heads_derived=derived,
    )


def _is_multilingual(checkpoint: Checkpoint, notes: list[str]) -> bool:
    """From generation_config.json, else from the vocabulary's text tokens."""
    generation = checkpoint.generation_config
    stated = generation.get("is_multilingual")
    if isinstance(stated, bool):
        return stated
    found = bool(generation.get("lang_to_id")) or checkpoint.vocabulary.looks_multilingual
    kind = "multilingual" if found else "English only"
    notes.append(f"is_multilingual is not stated: taken as {kind} from the vocabulary")
    return found


def _languages(checkpoint: Checkpoint, notes: list[str]) -> tuple[tuple[str, int], ...]:
    """(code, id) in id order, from lang_to_id, else from the vocabulary's names."""
    stated = checkpoint.generation_config.get("lang_to_id") or {}
    named = checkpoint.vocabulary.languages
    if stated:
        known = set(stated.values())
        pairs = tuple((code, i) for code, i in named if i in known)
        if pairs != named:
            notes.append(f"lang_to_id has {len(pairs)} of the vocabulary's {len(named)} languages")
        return pairs
    _refuse(checkpoint, [] if named else ["it is multilingual, but its vocabulary has no language"])
    return named


def _suppress_tokens(checkpoint: Checkpoint, model: ModelSpec, notes: list[str]) -> tuple[int, ...]:
    """The checkpoint's list, with a note where it is not openai/whisper's "-1" set."""
    usual = checkpoint.vocabulary.suppress_tokens()
    found = _id_list(checkpoint, "suppress_tokens", model, lambda: usual, notes)
    if found != usual:
        changes = {"more": set(found) - set(usual), "fewer": set(usual) - set(found)}
        notes.append(
            "suppress_tokens differ from openai/whisper's for this vocabulary: "
            + ", ".join(
                f"{len(ids)} {word} ({_some(checkpoint.vocabulary, sorted(ids))})"
                for word, ids in changes.items()
                if ids
            )
        )
    return found


def _some(vocabulary: Vocabulary, ids: list[int]) -> str:
    """The first few of some tokens, for people."""
    names = {i: name for name, i in vocabulary.special_tokens.items()}
    text = dict(enumerate(vocabulary.tokens))
    shown = [names.get(i) or repr(text.get(i, b"").decode("utf-8", "replace")) for i in ids[:4]]
    return ", ".join([*shown, *(["…"] if len(ids) > 4 else [])])


def _id_list(
    checkpoint: Checkpoint,
    key: str,
    model: ModelSpec,
    usual: Callable[[], tuple[int, ...]],
    notes: list[str],
) -> tuple[int, ...]:
    """A list of ids in generation_config.json (older: config.json), sorted; else the usual one."""
    for config in (checkpoint.generation_config, checkpoint.config):
        stated = config.get(key)
        if stated is None:
            continue
        sound = isinstance(stated, list) and all(
            type(i) is int and 0 <= i < model.n_vocab for i in stated
        )
        _refuse(checkpoint, [] if sound else [f"{key} holds something else than ids: {stated!r}"])
        return tuple(sorted(set(stated)))
    notes.append(f"{key} is not stated: openai/whisper's set was computed from the vocabulary")
    return tuple(sorted(usual()))


def _max_initial_timestamp_index(
    generation: Mapping[str, Any], checkpoint: Checkpoint, notes: list[str]
) -> int:
    stated = generation.get("max_initial_timestamp_index")
    if stated is None:
        notes.append("max_initial_timestamp_index is not stated: openai/whisper's 50 (1 s) is used")
        return MAX_INITIAL_TIMESTAMP_INDEX
    sound = type(stated) is int and 0 <= stated <= 1500
    _refuse(checkpoint, [] if sound else [f"max_initial_timestamp_index is {stated!r}"])
    return int(stated)


def _alignment_heads(
    checkpoint: Checkpoint, model: ModelSpec, notes: list[str]
) -> tuple[tuple[tuple[int, int], ...], bool]:
    """The stated heads, else all heads of the last half of the layers, as CTranslate2 does."""
    stated = checkpoint.generation_config.get("alignment_heads")
    if not stated:
        first = model.n_text_layer // 2
        notes.append(
            f"alignment_heads are not stated: all heads of decoder layers {first} to "
            f"{model.n_text_layer - 1} are used, so word times will be less exact"
        )
        layers, heads = range(first, model.n_text_layer), range(model.n_text_head)
        return tuple((layer, head) for layer in layers for head in heads), True
    sound = isinstance(stated, list) and all(_is_head(pair, model) for pair in stated)
    problem = f"alignment_heads {stated!r} are not (layer, head) pairs of its decoder"
    _refuse(checkpoint, [] if sound else [problem])
    return tuple((layer, head) for layer, head in stated), False


def _is_head(pair: Any, model: ModelSpec) -> bool:
    return (
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(type(n) is int for n in pair)
        and 0 <= pair[0] < model.n_text_layer
        and 0 <= pair[1] < model.n_text_head
    )
