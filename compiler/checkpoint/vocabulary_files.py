"""Reading tokens from the files that come with checkpoints.

Hugging Face: `vocab.json` or `tokenizer.json` hold text tokens as GPT-2's printable strings, and
special tokens are spread over `added_tokens.json`, `tokenizer.json` and `tokenizer_config.json`.
CTranslate2: `vocabulary.json` or `.txt`, all tokens by line. openai/whisper and mwc's own
artifacts: `*.tiktoken`, base64 and rank by line.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mwc.compiler.checkpoint.contents import RawVocabulary, named_files
from mwc.compiler.checkpoint.files import read_json, read_json_value, read_text
from mwc.compiler.vocabulary import EOT
from mwc.runtime.errors import CheckpointError
from mwc.runtime.tokenizer import decode_token

_SPECIAL = re.compile(r"<\|[^|]+\|>")


def gpt2_characters() -> dict[str, int]:
    """The byte each of GPT-2's printable characters stands for (openai/gpt-2 `encoder.py`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES = gpt2_characters()


def vocabulary_from_path(path: Path) -> RawVocabulary:
    """Read the tokenizer a user names: a folder, or one of the files above.

    Raises:
        CheckpointError: it is missing, damaged or no tokenizer.
    """
    if path.is_dir():
        found = vocabulary_from_folder(path)
    elif path.is_file():
        reader = {"vocab.json": _from_text_json, "tokenizer.json": _from_tokenizer_json}
        if path.suffix == ".tiktoken":
            found = _from_tiktoken(path)
        elif path.name in ("vocabulary.json", "vocabulary.txt"):
            found = _from_lines(path)
        else:
            found = reader[path.name](path.parent) if path.name in reader else None
    else:
        raise CheckpointError(f"there is no tokenizer at {path}.")
    if found is None:
        raise CheckpointError(
            f"{path} is no tokenizer; give a folder with vocab.json or tokenizer.json, "
            "or a .tiktoken file as openai/whisper has them."
        )
    return found


def vocabulary_from_folder(folder: Path) -> RawVocabulary | None:
    """Read whichever tokenizer files a folder has; None where it has none."""
    if (folder / "vocab.json").is_file():
        return _from_text_json(folder)
    if (folder / "tokenizer.json").is_file():
        return _from_tokenizer_json(folder)
    for name in ("vocabulary.json", "vocabulary.txt"):
        if (folder / name).is_file():
            return _from_lines(folder / name)
    tiktoken = sorted(folder.glob("*.tiktoken"))
    return _from_tiktoken(tiktoken[0]) if len(tiktoken) == 1 else None


def _from_text_json(folder: Path) -> RawVocabulary:
    """`vocab.json`, with special tokens from everywhere else."""
    path = folder / "vocab.json"
    return _from_ids(read_json(path), folder, [path], path)


def _from_tokenizer_json(folder: Path) -> RawVocabulary:
    """`tokenizer.json` alone, as newer versions of transformers save it."""
    path = folder / "tokenizer.json"
    model = read_json(path).get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict):
        raise CheckpointError(f"{path} holds no BPE vocabulary (model.vocab); fetch it again.")
    return _from_ids(vocab, folder, [path], path)


def _from_ids(vocab: dict[str, Any], folder: Path, read: list[Path], path: Path) -> RawVocabulary:
    """Text tokens with their ids, special ones among them, plus the folder's added tokens."""
    text: dict[int, str] = {}
    named: dict[str, int] = {}
    for token, i in vocab.items():
        if not isinstance(i, int) or isinstance(i, bool):
            raise CheckpointError(f"{path} gives the token {token!r} the id {i!r}, not a number.")
        if _SPECIAL.fullmatch(token):
            named[token] = i
        else:
            text[i] = token
    for name, i, source in _added_tokens(folder):
        if source not in read:
            read.append(source)
        if i in text:
            if text[i] == name:  # listed again among the added tokens, still text
                continue
            raise CheckpointError(f"{source} gives {name} the id {i}, which is text in {path}.")
        if named.setdefault(name, i) != i:
            raise CheckpointError(
                f"{source} gives {name} the id {i}, but another tokenizer file beside it says "
                f"{named[name]}; fetch the files again."
            )
    if sorted(text) != list(range(len(text))):
        gap = next(i for i in range(len(text) + 1) if i not in text)
        raise CheckpointError(f"{path} has no text token with the id {gap}; its ids have a gap.")
    tokens = tuple(_token_bytes(text[i], path) for i in range(len(text)))
    return RawVocabulary(tokens, named, str(path), named_files(read, folder))


def _added_tokens(folder: Path) -> Iterator[tuple[str, int, Path]]:
    """Every (name, id, file) among the added tokens of a Hugging Face folder."""
    added, tokenizer, config = (
        folder / name for name in ("added_tokens.json", "tokenizer.json", "tokenizer_config.json")
    )
    if added.is_file():
        for name, i in read_json(added).items():
            yield name, _id(i, name, added), added
    if tokenizer.is_file():
        entries = read_json(tokenizer).get("added_tokens") or []
        if not isinstance(entries, list):
            raise CheckpointError(f"{tokenizer} has added_tokens {entries!r}, not a list of them.")
        for entry in entries:
            yield _content(entry, tokenizer), _id(entry.get("id"), entry, tokenizer), tokenizer
    if config.is_file():
        by_id = read_json(config).get("added_tokens_decoder") or {}
        if not isinstance(by_id, dict):
            raise CheckpointError(f"{config} has added_tokens_decoder {by_id!r}, not a table.")
        for i, entry in by_id.items():
            number = int(i) if i.isdecimal() else None
            yield _content(entry, config), _id(number, entry, config), config


def _content(entry: Any, path: Path) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
        raise CheckpointError(f"{path} holds an added token without content: {entry!r}.")
    return str(entry["content"])


def _id(value: Any, entry: Any, path: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CheckpointError(f"{path} gives the added token {entry!r} no valid id.")
    return value


def _token_bytes(token: str, path: Path) -> bytes:
    """The bytes a byte-level string stands for."""
    try:
        return bytes(_BYTES[character] for character in token)
    except KeyError as error:
        raise CheckpointError(
            f"{path} holds the token {token!r}, whose character {error.args[0]!r} stands for no "
            "byte; mwc reads byte-level BPE as Whisper uses it."
        ) from None


def _from_lines(path: Path) -> RawVocabulary:
    """CTranslate2's `vocabulary.txt` (one token a line) or `.json` (a list)."""
    if path.suffix == ".json":
        lines = read_json_value(path)
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise CheckpointError(f"{path} is not a list of tokens; fetch it again.")
    else:
        lines = read_text(path).removesuffix("\n").split("\n")
    if EOT not in lines:
        raise CheckpointError(f"{path} has no {EOT}; it is not a Whisper vocabulary.")
    end = lines.index(EOT)
    named = {name: end + i for i, name in enumerate(lines[end:])}
    tokens = tuple(_token_bytes(token, path) for token in lines[:end])
    return RawVocabulary(tokens, named, str(path), named_files([path], path.parent))


def _from_tiktoken(path: Path) -> RawVocabulary:
    """A `.tiktoken` file, with `special_tokens.json` beside it in an artifact's folder."""
    special = path.parent / "special_tokens.json"
    read, named = [path], {}
    if special.is_file():
        read.append(special)
        named = {name: _id(i, name, special) for name, i in read_json(special).items()}
    tokens = tuple(_tiktoken_tokens(read_text(path).splitlines(), path))
    return RawVocabulary(tokens, named, str(path), named_files(read, path.parent))


def _tiktoken_tokens(lines: Iterable[str], path: Path) -> Iterator[bytes]:
    """Tokens in rank order; openai/whisper writes the empty one as "="."""
    for expected, line in enumerate(lines):
        digits, _, rank = line.rpartition(" ")
        try:
            token = decode_token(digits.encode())
        except ValueError:
            token = None
        if token is None or rank != str(expected):
            raise CheckpointError(
                f"{path} line {expected + 1} is {line[:40]!r}, not a token and its rank "
                f"{expected}; it is damaged or not a tiktoken file."
            )
        yield token
