"""Text to tokens and back, with the vocabulary that an artifact carries.

Two files make a tokenizer: `vocab.tiktoken` (one "base64 rank" pair a line) and
`special_tokens.json` (name to id, the 1501 timestamps included). The byte-pair encoding itself is
tiktoken's, so that texts and ids are those of openai/whisper `whisper/tokenizer.py`.
"""

import base64
import json
from collections.abc import Iterable
from pathlib import Path

from mwc.runtime.errors import ArtifactError, OptionError
from mwc.runtime.spec import TokenSpec

VOCABULARY_FILE = "vocab.tiktoken"
SPECIAL_TOKENS_FILE = "special_tokens.json"

SPLIT_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How GPT-2 cuts text before merging bytes (openai/whisper `tokenizer.py`, `get_encoding`)."""


class Tokenizer:
    """The tokenizer of one model.

    Attributes:
        tokens: the special tokens, from the artifact's manifest.
    """

    def __init__(self, folder: Path, tokens: TokenSpec) -> None:
        """Read the two files in `folder`.

        Raises:
            ArtifactError: a file is missing or damaged, or disagrees with `tokens`.
        """
        import tiktoken

        ranks = _read_vocabulary(folder / VOCABULARY_FILE)
        special_tokens = _read_special_tokens(folder / SPECIAL_TOKENS_FILE)
        if special_tokens.get("<|endoftext|>") != tokens.eot:
            raise ArtifactError(
                f"{folder / SPECIAL_TOKENS_FILE} gives <|endoftext|> the id "
                f"{special_tokens.get('<|endoftext|>')}, but the manifest says {tokens.eot}; "
                "convert the checkpoint again."
            )
        self.tokens = tokens
        self._known = frozenset(ranks.values()) | frozenset(special_tokens.values())
        self._encoding = tiktoken.Encoding(
            name="mwc", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=special_tokens
        )

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text.

        Raises:
            OptionError: the text names a special token such as `<|endoftext|>`.
        """
        try:
            return self._encoding.encode(text)
        except ValueError:
            raise OptionError(
                f"the text {text!r} contains a special token; "
                "prompts and prefixes take plain text, so leave out everything in <|…|>."
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without timestamps; broken UTF-8 becomes U+FFFD.

        Ids that no file names (the padding of some embeddings) hold no text and are passed over.
        """
        return self.decode_with_timestamps(t for t in ids if t < self.tokens.timestamp_begin)

    def decode_with_timestamps(self, ids: Iterable[int]) -> str:
        """Return the text of ids with timestamps spelled out, as in "<|1.08|>"."""
        return self._encoding.decode([t for t in ids if t in self._known])

    def sot_sequence(self, language: str | None, task: str, timestamps: bool) -> tuple[int, ...]:
        """Return what every prompt ends with: sot, language, task, `<|notimestamps|>`.

        An English-only model has neither language nor task tokens; its sequence is sot, followed
        by `<|notimestamps|>` where no timestamps are wanted.

        Args:
            language: a code of `TokenSpec.languages`; None for an English-only model.
            task: "transcribe" or "translate".
            timestamps: whether timestamps will be sampled.

        Raises:
            OptionError: the model has no such language or task.
        """
        sequence = [self.tokens.sot]
        if self.tokens.is_multilingual:
            sequence += [self._language_token(language), self._task_token(task)]
        if not timestamps:
            sequence.append(self.tokens.no_timestamps)
        return tuple(sequence)

    def _language_token(self, language: str | None) -> int:
        for code, token in self.tokens.languages:
            if code == language:
                return token
        raise OptionError(f"this model has no language {language!r}.")

    def _task_token(self, task: str) -> int:
        tasks = {"transcribe": self.tokens.transcribe, "translate": self.tokens.translate}
        token = tasks.get(task)
        if token is None:
            raise OptionError(f"this model has no task {task!r}.")
        return token


def _read_vocabulary(path: Path) -> dict[bytes, int]:
    """Read the text tokens: bytes to rank."""
    ranks: dict[bytes, int] = {}
    try:
        for line in path.read_bytes().splitlines():
            token, rank = line.rsplit(b" ", 1)
            ranks[decode_token(token)] = int(rank)
    except OSError as error:
        raise ArtifactError(_unreadable(path, error)) from None
    except ValueError:
        raise ArtifactError(f"{path} is damaged; convert the checkpoint again.") from None
    if not all(bytes([b]) in ranks for b in range(256)) or len(set(ranks.values())) != len(ranks):
        raise ArtifactError(f"{path} is damaged; convert the checkpoint again.")
    return ranks


def decode_token(written: bytes) -> bytes:
    """The bytes of a token that a `.tiktoken` file has in base64; the empty one is "" or "=".

    Raises:
        ValueError: it is not base64.
    """
    digits = written.rstrip(b"=")
    return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)


def _read_special_tokens(path: Path) -> dict[str, int]:
    """Read the special tokens: name to id."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(_unreadable(path, error)) from None
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or not all(isinstance(v, int) for v in data.values()):
        raise ArtifactError(f"{path} is damaged; convert the checkpoint again.")
    return data


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} cannot be read ({error.strerror}); convert the checkpoint again."
