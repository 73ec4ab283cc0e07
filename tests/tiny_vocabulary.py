"""A made-up byte-level vocabulary in the shape of Whisper's, small enough for random models.

256 bytes in GPT-2's order, some 340 made-up merges, then the special tokens in openai/whisper's
order (`tokenizer.py`, `get_encoding`). Nothing is downloaded.
"""

from dataclasses import dataclass

import numpy as np

CODES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th "
    "ur hr bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr "
    "pa si km sn yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt "
    "haw ln ha ba jw su yue"
)
LANGUAGES = CODES.split()

N_TEXT = 600


@dataclass(frozen=True)
class TinyVocabulary:
    """What the tokenizer files are written from.

    `tokens` are the text tokens as byte-level strings by id, `merges` the pairs in order,
    `special_tokens` ids by name with the timestamps, `languages` the codes of the kind.
    """

    kind: str
    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    special_tokens: dict[str, int]
    languages: tuple[str, ...]

    @property
    def n_vocab(self) -> int:
        return len(self.tokens) + len(self.special_tokens)

    @property
    def is_multilingual(self) -> bool:
        return self.kind != "en"


def byte_characters() -> dict[int, str]:
    """GPT-2's printable character for each byte, in the order of its first 256 ids."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def token_bytes(token: str) -> bytes:
    """The bytes a byte-level string stands for."""
    table = {c: b for b, c in byte_characters().items()}
    return bytes(table[c] for c in token)


def tiny_vocabulary(kind: str) -> TinyVocabulary:
    """Build the "en", "multilingual" (99 languages) or "v3" (100 languages) vocabulary."""
    characters = byte_characters()
    space = characters[32]
    tokens = list(characters.values())
    merges: list[tuple[str, str]] = []

    def merge(left: str, right: str) -> None:
        if left + right not in tokens:
            merges.append((left, right))
            tokens.append(left + right)

    for right in "abcdefghijklmnopqrstuvwxyz" + "-'\"#()*+/:;<=>@[\\]^_`{|}~":
        merge(space, right)
    merge(space, characters[0xE2])  # first byte of the music signs that openai/whisper suppresses
    generator = np.random.default_rng(7)
    words = [t for t in tokens if t.strip(space).islower() and t.isascii() | (t[0] == space)]
    while len(tokens) < N_TEXT - (kind != "en"):
        left, right = generator.choice(words, 2)
        if not right.startswith(space) and len(left + right) < 9:
            merge(str(left), str(right))
            if tokens[-1] not in words:
                words.append(tokens[-1])
    if kind != "en":
        tokens.append("")  # openai/whisper's multilingual vocabulary ends with the empty token
    languages = tuple(LANGUAGES[: 100 if kind == "v3" else 99])
    names = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{code}|>" for code in languages),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
        *(f"<|{i * 0.02:.2f}|>" for i in range(1501)),
    ]
    special = {name: len(tokens) + i for i, name in enumerate(names)}
    return TinyVocabulary(kind, tuple(tokens), tuple(merges), special, languages)
