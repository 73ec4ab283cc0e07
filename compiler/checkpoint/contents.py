"""What each layout's reader hands to `open_checkpoint`, before it is put together and checked."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mwc.compiler.checkpoint.files import ByteSource
from mwc.compiler.checkpoint.lazy import LazyTensor
from mwc.runtime.errors import UnsupportedModel

Files = tuple[tuple[str, ByteSource], ...]


@dataclass(frozen=True)
class RawVocabulary:
    """Tokens as a source's files hold them.

    Attributes:
        tokens: text tokens by id.
        named: ids of the special tokens the files name; may be empty.
        origin: the file or folder, for messages.
        files: what was read.
    """

    tokens: tuple[bytes, ...]
    named: dict[str, int]
    origin: str
    files: Files = ()


@dataclass(frozen=True)
class Contents:
    """What a source holds.

    Attributes:
        kind: see `Origin.kind`.
        config: in the form of transformers' `config.json`.
        generation_config: in the form of `generation_config.json`, {} where there is none.
        preprocessor_config: in the form of `preprocessor_config.json`, {} where there is none.
        tensors: by transformers' names without "model.".
        vocabulary: reads it; None where the layout carries none. Only called if the user names no
            other, so that a broken one can be replaced.
        files: every file read, for hashing, the vocabulary's excepted.
        licence: as stated, or None.
    """

    kind: str
    config: dict[str, Any]
    generation_config: dict[str, Any]
    preprocessor_config: dict[str, Any]
    tensors: dict[str, LazyTensor]
    vocabulary: Callable[[], RawVocabulary | None]
    files: Files
    licence: str | None = field(default=None)


def named_files(paths: list[Path], root: Path) -> Files:
    """Pair each path with its name relative to a folder."""
    return tuple((str(path.relative_to(root)), ByteSource((path,))) for path in paths)


def whisper_config(
    *,
    n_mels: int,
    n_vocab: int,
    n_state: int,
    n_text_state: int,
    audio: tuple[int, int, int],
    text: tuple[int, int, int],
    tensors: dict[str, LazyTensor],
) -> dict[str, Any]:
    """transformers' `config.json` from the dimensions other layouts state.

    Args:
        n_mels: mel bins.
        n_vocab: rows of the token embedding.
        n_state: the encoder's width.
        n_text_state: the decoder's width, which must be the same.
        audio: encoder positions, heads and layers.
        text: decoder positions, heads and layers.
        tensors: the feed-forward widths are those of the first layers' `fc1`.

    Raises:
        UnsupportedModel: the widths differ.
    """
    if n_state != n_text_state:
        raise UnsupportedModel(
            f"the encoder has a width of {n_state} and the decoder of {n_text_state}; "
            "in a Whisper they are the same."
        )

    def mlp(stack: str) -> int:
        first = tensors.get(f"{stack}.layers.0.fc1.weight")
        return first.shape[0] if first and first.shape else 4 * n_state

    return {
        "model_type": "whisper",
        "activation_function": "gelu",
        "scale_embedding": False,
        "d_model": n_state,
        "num_mel_bins": n_mels,
        "vocab_size": n_vocab,
        "max_source_positions": audio[0],
        "encoder_attention_heads": audio[1],
        "encoder_layers": audio[2],
        "encoder_ffn_dim": mlp("encoder"),
        "max_target_positions": text[0],
        "decoder_attention_heads": text[1],
        "decoder_layers": text[2],
        "decoder_ffn_dim": mlp("decoder"),
    }
