"""The tokens of a checkpoint, in the one form the runtime's tokenizer reads.

Every source spells its vocabulary differently (`mwc.compiler.checkpoint.vocabulary_files` reads
them); here it is text tokens as bytes in rank order, and special tokens by name. Names and order
of the special tokens are openai/whisper's (`whisper/tokenizer.py`, `get_encoding`).
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mwc.runtime.errors import CheckpointError, UnsupportedModel
from mwc.runtime.languages import NAME_OF_LANGUAGE
from mwc.runtime.tokenizer import SPECIAL_TOKENS_FILE, SPLIT_PATTERN, VOCABULARY_FILE

if TYPE_CHECKING:
    import tiktoken

N_TIMESTAMPS = 1501
"""`<|0.00|>` to `<|30.00|>` in steps of 0.02 s."""

EOT = "<|endoftext|>"
SOT = "<|startoftranscript|>"
TRANSLATE = "<|translate|>"
TRANSCRIBE = "<|transcribe|>"
SOT_LM = "<|startoflm|>"
SOT_PREV = "<|startofprev|>"
NO_SPEECH = "<|nospeech|>"
NO_TIMESTAMPS = "<|notimestamps|>"
CONTROLS = (TRANSLATE, TRANSCRIBE, SOT_LM, SOT_PREV, NO_SPEECH, NO_TIMESTAMPS)
"""The special tokens between the languages and the timestamps, in order."""

REQUIRED = (EOT, SOT, SOT_PREV, NO_SPEECH, NO_TIMESTAMPS)
"""What decoding cannot do without; the task tokens only matter to multilingual models."""

ALIASES = {"<|nocaptions|>": NO_SPEECH, "<|iw|>": "<|he|>"}
"""Older names of special tokens (Hugging Face's files before large-v3, the first English ones)."""

LANGUAGE_CODES = tuple(NAME_OF_LANGUAGE)
"""Language codes in the order of their tokens; the last, "yue", came with large-v3."""

_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")

_PUNCTUATION = '"#()*+/:;<=>@[\\]^_`{|}~「」『』'
_SEQUENCES = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪"
_MUSIC_SIGNS = "♩♪♫♬♭♮♯"


def timestamp_name(index: int) -> str:
    """The name of the timestamp token of index * 0.02 s."""
    return f"<|{index * 0.02:.2f}|>"


@dataclass(frozen=True)
class Vocabulary:
    """A checkpoint's tokens.

    Attributes:
        tokens: text tokens by id, 0 to n - 1; the id is the rank in byte-level BPE. A multilingual
            vocabulary ends with the empty token, an English one does not.
        special_tokens: ids of the tokens that stand for no text, by openai/whisper's names, the
            1501 timestamps included.
    """

    tokens: tuple[bytes, ...]
    special_tokens: Mapping[str, int]

    @property
    def n_ids(self) -> int:
        """One more than the highest id."""
        return max(*self.special_tokens.values(), len(self.tokens) - 1) + 1

    @property
    def languages(self) -> tuple[tuple[str, int], ...]:
        """The language tokens as (code, id), in id order."""
        found = ((_LANGUAGE.fullmatch(name), i) for name, i in self.special_tokens.items())
        return tuple(sorted(((m[1], i) for m, i in found if m), key=lambda pair: pair[1]))

    @property
    def looks_multilingual(self) -> bool:
        """Whether the text tokens are those of a multilingual model: they hold the empty token.

        openai/whisper's `multilingual.tiktoken` has it (id 50256), its `gpt2.tiktoken` has not.
        """
        return b"" in self.tokens

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; names of special tokens in it are text like any other."""
        return self._encoding.encode_ordinary(text)

    @cached_property
    def _encoding(self) -> "tiktoken.Encoding":
        import tiktoken

        ranks = {token: rank for rank, token in enumerate(self.tokens)}
        return tiktoken.Encoding(
            "checkpoint", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={}
        )

    def non_speech_tokens(self) -> tuple[int, ...]:
        """Ids of symbols nobody speaks, sorted (openai/whisper `non_speech_tokens`).

        A symbol counts where it is a single token, alone or after a space; music signs count by
        their first token. "-" and "'" are kept inside words and suppressed at the start of one.
        """
        found = {self.encode(" -")[0], self.encode(" '")[0]}
        for symbol in (*_PUNCTUATION, *_SEQUENCES.split(), *_MUSIC_SIGNS):
            for ids in (self.encode(symbol), self.encode(" " + symbol)):
                if len(ids) == 1 or symbol in _MUSIC_SIGNS:
                    found.add(ids[0])
        return tuple(sorted(found))

    def suppress_tokens(self) -> tuple[int, ...]:
        """openai/whisper's "-1" set for this vocabulary, sorted.

        The non-speech tokens and every control token that a transcript cannot hold
        (`whisper/decoding.py`, `_get_suppress_tokens`).
        """
        controls = (SOT, TRANSLATE, TRANSCRIBE, SOT_LM, SOT_PREV, NO_SPEECH)
        ids = (self.special_tokens[name] for name in controls if name in self.special_tokens)
        return tuple(sorted({*self.non_speech_tokens(), *ids}))


def build_vocabulary(
    tokens: Sequence[bytes], named: Mapping[str, int], n_vocab: int, origin: str
) -> Vocabulary:
    """Put a vocabulary together from what a source's files hold.

    Args:
        tokens: text tokens by id.
        named: ids of the special tokens the files name, under any known alias; may be empty, then
            they follow the text tokens in openai/whisper's order.
        n_vocab: rows of the token embedding, from the checkpoint's configuration.
        origin: where the tokens were read, for messages.

    Raises:
        CheckpointError: tokens are repeated, bytes are missing, or ids contradict each other.
        UnsupportedModel: they do not fit n_vocab, or a special token is missing.
    """
    if len(set(tokens)) != len(tokens):
        raise CheckpointError(f"{origin} holds the same text token twice; its files are damaged.")
    missing = [b for b in range(256) if bytes([b]) not in set(tokens)]
    if missing:
        raise UnsupportedModel(
            f"{origin} lacks the single-byte token{'s' if len(missing) > 1 else ''} "
            f"{', '.join(map(str, missing[:8]))}; mwc reads byte-level BPE as Whisper uses it."
        )
    if named:
        special = {ALIASES.get(name, name): i for name, i in named.items()}
    else:
        special = _in_order(len(tokens), n_vocab, origin)
    lacking = [name for name in REQUIRED if name not in special]
    if lacking:
        raise UnsupportedModel(
            f"{origin} names no {', '.join(lacking)}; a Whisper vocabulary has all of them."
        )
    _add_timestamps(special, origin)
    vocabulary = Vocabulary(tuple(tokens), dict(sorted(special.items(), key=lambda pair: pair[1])))
    _check_ids(vocabulary, n_vocab, origin)
    return vocabulary


def _in_order(n_text: int, n_vocab: int, origin: str) -> dict[str, int]:
    """All special tokens but the timestamps, right after the text tokens."""
    n_languages = n_vocab - n_text - 2 - len(CONTROLS) - N_TIMESTAMPS
    if not 0 < n_languages <= len(LANGUAGE_CODES):
        raise UnsupportedModel(
            f"{origin} holds {n_text} text tokens, which leaves {n_vocab - n_text} of the model's "
            f"{n_vocab} ids for special tokens, {n_languages} of them languages; openai/whisper's "
            f"vocabularies have 99 or 100 languages, so this is not the model's tokenizer."
        )
    languages = (f"<|{code}|>" for code in LANGUAGE_CODES[:n_languages])
    return {name: n_text + i for i, name in enumerate((EOT, SOT, *languages, *CONTROLS))}


def _add_timestamps(special: dict[str, int], origin: str) -> None:
    """Name all 1501 timestamps; most files of before large-v3 name none."""
    begin = special.get(timestamp_name(0), special[NO_TIMESTAMPS] + 1)
    for index in range(N_TIMESTAMPS):
        name = timestamp_name(index)
        if special.setdefault(name, begin + index) != begin + index:
            raise UnsupportedModel(
                f"{origin} gives {name} the id {special[name]}, not {begin + index}; "
                "timestamp tokens must follow each other in steps of 0.02 s."
            )


def _check_ids(vocabulary: Vocabulary, n_vocab: int, origin: str) -> None:
    """Refuse ids that collide, precede the text tokens' end, or exceed the embedding."""
    special, n_text = vocabulary.special_tokens, len(vocabulary.tokens)
    names: dict[int, str] = {}
    for name, i in special.items():
        if i in names:
            raise CheckpointError(f"{origin} gives {names[i]} and {name} the same id {i}.")
        if not n_text <= i:
            raise CheckpointError(
                f"{origin} gives {name} the id {i}, but ids below {n_text} are text tokens."
            )
        names[i] = name
    if min(special, key=lambda name: special[name]) != EOT:
        raise UnsupportedModel(
            f"{origin} has a special token below {EOT} ({special[EOT]}); in Whisper every id "
            "below it is text."
        )
    if vocabulary.n_ids > n_vocab:
        raise UnsupportedModel(
            f"{origin} has ids up to {vocabulary.n_ids - 1}, but the model's vocabulary has only "
            f"{n_vocab} rows; this is not the model's tokenizer."
        )


def write_vocabulary(vocabulary: Vocabulary, folder: Path) -> None:
    """Write the two files `mwc.runtime.tokenizer` reads into an existing or new folder.

    `vocab.tiktoken`: "base64 rank" lines as openai/whisper writes them, the empty token as "=";
    `special_tokens.json`: {"<|endoftext|>": 50257, …} with all 1501 timestamps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = (
        f"{base64.b64encode(token).decode() or '='} {rank}\n"
        for rank, token in enumerate(vocabulary.tokens)
    )
    (folder / VOCABULARY_FILE).write_text("".join(lines), encoding="ascii")
    text = json.dumps(dict(vocabulary.special_tokens), indent=0, ensure_ascii=False)
    (folder / SPECIAL_TOKENS_FILE).write_text(text + "\n", encoding="utf-8")
