"""Tensors that know where they lie and are read when asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from mwc.compiler.checkpoint.files import ByteSource
from mwc.compiler.checkpoint.types import Float32
from mwc.runtime.errors import WeightMismatch

STORED: Mapping[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}
"""How each dtype lies in a file; bfloat16 as its 16 bits."""


@dataclass(frozen=True)
class LazyTensor:
    """One stored tensor: its shape, and how to get it as float32."""

    shape: tuple[int, ...]
    load: Callable[[], Float32]


@dataclass(frozen=True)
class LazyTensors:
    """The `Tensors` of every layout: lazy tensors by transformers' names."""

    by_name: Mapping[str, LazyTensor]

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes by name."""
        return {name: tensor.shape for name, tensor in self.by_name.items()}

    def read(self, name: str) -> Float32:
        """Return one tensor as float32, checked to be finite; see `Tensors.read`."""
        values = self.by_name[name].load()
        finite = np.isfinite(values)
        if not finite.all():
            place = np.unravel_index(int(np.argmin(finite)), values.shape)
            raise WeightMismatch(
                f"the weight {name} holds {values[place]} at {[int(i) for i in place]} "
                f"({values.size - int(finite.sum())} such values in all); "
                "the checkpoint is damaged or its training diverged."
            )
        return values


def tensor_in_file(
    source: ByteSource, offset: int, shape: tuple[int, ...], dtype: str
) -> LazyTensor:
    """A tensor that lies as `dtype` in C order at a byte offset."""

    def load() -> Float32:
        size = prod(shape) * STORED[dtype].itemsize
        stored = np.frombuffer(source.read(offset, size), STORED[dtype])
        return to_float32(stored, dtype).reshape(shape)

    return LazyTensor(shape, load)


def to_float32(stored: npt.NDArray[np.generic], dtype: str) -> Float32:
    """Widen stored values; float32 is passed through without a copy."""
    if dtype == "bfloat16":  # the upper half of a float32
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)


def tie_projection(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Drop `proj_out.weight`, which Whisper shares with the token embedding.

    Where a file holds the shared matrix under the projection's name alone, it is the embedding.

    Raises:
        WeightMismatch: the two differ, so the LM head was untied and trained on its own.
    """
    embedding, projection = "decoder.embed_tokens.weight", "proj_out.weight"
    if projection not in tensors:
        return tensors
    if embedding not in tensors:
        return {embedding if name == projection else name: t for name, t in tensors.items()}
    ours, theirs = tensors[projection], tensors[embedding]
    if ours.shape != theirs.shape or not np.array_equal(ours.load(), theirs.load()):
        raise WeightMismatch(
            f"{projection} {list(ours.shape)} differs from {embedding} {list(theirs.shape)}; "
            "mwc compiles Whispers whose LM head is the token embedding, as all published ones."
        )
    return {name: tensor for name, tensor in tensors.items() if name != projection}
