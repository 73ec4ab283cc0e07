"""From generation_config.json and the vocabulary to a `TokenSpec`."""

from collections.abc import Callable, Mapping
from typing import Any

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
from mwc.runtime.languages import NAME_OF_LANGUAGE
from mwc.runtime.spec import ModelSpec, TokenSpec

MAX_INITIAL_TIMESTAMP_INDEX = 50
"""1 s; openai/whisper `decoding.py`, `DecodingOptions.max_initial_timestamp`."""

STATED_IDS: Mapping[str, str] = {
    "no_timestamps_token_id": NO_TIMESTAMPS,
    "prev_sot_token_id": SOT_PREV,
    "decoder_start_token_id": SOT,
    "eos_token_id": EOT,
}
"""Ids that generation_config.json repeats from the vocabulary."""


def refuse(checkpoint: Checkpoint, problems: list[str]) -> None:
    """Raise UnsupportedModel where there is any problem."""
    if problems:
        head = f"{checkpoint.origin.source} is not a Whisper that mwc can compile: "
        raise UnsupportedModel(head + "; ".join(problems) + ".")


def vocabulary_problems(checkpoint: Checkpoint) -> list[str]:
    """Ids that generation_config.json and the vocabulary state differently."""
    generation, special = checkpoint.generation_config, checkpoint.vocabulary.special_tokens
    tables = ("lang_to_id", "task_to_id")
    wrong = [key for key in tables if not isinstance(generation.get(key) or {}, dict)]
    if wrong:
        return [f"generation_config.json has {key} {generation[key]!r}, no table" for key in wrong]
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


def read_tokens(checkpoint: Checkpoint, model: ModelSpec, notes: list[str]) -> TokenSpec:
    """Derive the special tokens and suppression lists.

    Raises:
        UnsupportedModel: a list holds no ids, or a token is missing.
    """
    generation, vocabulary = checkpoint.generation_config, checkpoint.vocabulary
    special = vocabulary.special_tokens
    multilingual = _is_multilingual(checkpoint, notes)
    lacking = [name for name in (TRANSCRIBE, TRANSLATE) if multilingual and name not in special]
    refuse(checkpoint, [f"it is multilingual, but its vocabulary has no {n}" for n in lacking])
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
    """(code, id) in id order, from lang_to_id, else the vocabulary's names of Whisper's languages.

    A fine-tune's own token may look like one: "<|pad|>".
    """
    stated = checkpoint.generation_config.get("lang_to_id") or {}
    named = checkpoint.vocabulary.languages
    if stated:
        known = set(stated.values())
        pairs = tuple((code, i) for code, i in named if i in known)
        if pairs != named:
            notes.append(f"lang_to_id has {len(pairs)} of the vocabulary's {len(named)} languages")
        return pairs
    usual = tuple((code, i) for code, i in named if code in NAME_OF_LANGUAGE)
    refuse(checkpoint, [] if usual else ["it is multilingual, but its vocabulary has no language"])
    return usual


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
        refuse(checkpoint, [] if sound else [f"{key} holds something else than ids: {stated!r}"])
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
    refuse(checkpoint, [] if sound else [f"max_initial_timestamp_index is {stated!r}"])
    return int(stated)


def _alignment_heads(
    checkpoint: Checkpoint, model: ModelSpec, notes: list[str]
) -> tuple[tuple[tuple[int, int], ...], bool]:
    """The stated heads, else all heads of the last half of the layers, as CTranslate2 does.

    Distilled models often keep the heads of their teacher, whose layers they do not have.
    """
    stated = checkpoint.generation_config.get("alignment_heads")
    sound = not stated or (isinstance(stated, list) and all(map(_is_pair, stated)))
    refuse(checkpoint, [] if sound else [f"alignment_heads {stated!r} are not (layer, head) pairs"])
    heads = tuple((layer, head) for layer, head in stated or ())
    if heads and all(i < model.n_text_layer and h < model.n_text_head for i, h in heads):
        return heads, False
    first = model.n_text_layer // 2
    notes.append(
        (
            "alignment_heads name heads the decoder does not have"
            if heads
            else "alignment_heads is not stated"
        )
        + f": all heads of decoder layers {first} to {model.n_text_layer - 1} are used, "
        "so word times will be less exact"
    )
    layers = range(first, model.n_text_layer)
    return tuple((layer, head) for layer in layers for head in range(model.n_text_head)), True


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(type(n) is int and n >= 0 for n in pair)
    )
