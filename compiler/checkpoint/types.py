"""What every source of weights is turned into."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mwc.compiler.vocabulary import Vocabulary

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint came from, for an artifact's provenance.

    Attributes:
        kind: "hub", "folder", "openai", "ctranslate2", "ggml" or "package".
        source: as the user wrote it.
        revision: the commit a Hub id resolved to; None for other kinds.
        files: (name relative to the source, SHA-256 in hex) of every file that was read.
        licence: as the source states it, or None.
    """

    kind: str
    source: str
    revision: str | None
    files: tuple[tuple[str, str], ...]
    licence: str | None


class Tensors(Protocol):
    """A checkpoint's weights, read one at a time, by transformers' names without "model."."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes by name, in transformers' layout: linear [out, in], convolution [out, in, 3]."""
        ...

    def read(self, name: str) -> Float32:
        """Return one tensor as C-contiguous float32 that the caller may keep and change.

        Raises:
            KeyError: there is no tensor of that name.
            WeightMismatch: it holds NaN or an infinity.
            CheckpointError: its file can no longer be read.
        """
        ...


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; no weight has been read yet.

    Attributes:
        origin: where it came from.
        config: transformers' `config.json`, or the same made from the source's own header.
        generation_config: likewise `generation_config.json`; {} where the source has none.
        preprocessor_config: likewise `preprocessor_config.json`; {} where the source has none.
        vocabulary: its tokens.
        tensors: its weights.
    """

    origin: Origin
    config: dict[str, Any]
    generation_config: dict[str, Any]
    preprocessor_config: dict[str, Any]
    vocabulary: Vocabulary
    tensors: Tensors
