"""Weight files: safetensors, written in one pass and mapped read-only without a copy.

The format (safetensors README, "Format"): a little-endian u64 header length, a JSON header
{name: {dtype, shape, data_offsets}}, then the data without holes. Here every tensor starts at a
multiple of 64 bytes in the file, so that a mapping is aligned for any vector load; what fills the
gaps is declared as U8 tensors named `__pad__…`, so the safetensors package reads the file too.
"""

import json
import math
import mmap
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mwc.runtime.disk import raise_if_full
from mwc.runtime.errors import ArtifactError
from mwc.runtime.progress import Progress, ProgressEvent, silent
from mwc.runtime.spec import TensorSpec

Array = npt.NDArray[Any]

ALIGNMENT = 64
_CHUNK = 1 << 24
_HEADER_LIMIT = 100_000_000  # bytes; the limit the safetensors package sets
_PAD = "__pad__"
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)

# TensorSpec dtype: (safetensors name, numpy type that carries it). numpy has no bfloat16: its bits.
_DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "float32": ("F32", np.dtype("<f4")),
    "float16": ("F16", np.dtype("<f2")),
    "bfloat16": ("BF16", np.dtype("<u2")),
    "int32": ("I32", np.dtype("<i4")),
    "int8": ("I8", np.dtype("i1")),
    "uint8": ("U8", np.dtype("u1")),
}


@dataclass(frozen=True)
class Placed:
    """One tensor of a header: safetensors dtype, shape, first byte and end in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The numpy type that carries a `TensorSpec.dtype`; bfloat16 travels as uint16 bits."""
    return _DTYPES[dtype][1]


def tensor_bytes(tensor: TensorSpec) -> int:
    """How many bytes a tensor takes; its shape must be all numbers (ValueError)."""
    return math.prod(_sizes(tensor)) * numpy_dtype(tensor.dtype).itemsize


def write_weights(
    path: Path,
    tensors: Iterable[tuple[TensorSpec, Callable[[], Array]]],
    progress: Progress = silent,
) -> tuple[TensorSpec, ...]:
    """Write a weight file, holding one tensor in memory at a time.

    Args:
        path: the file to write; its folder exists.
        tensors: what to write, in order, each with a function that reads it. The array has the
            spec's shape, and its dtype as `numpy_dtype` says (bfloat16 as uint16 bits).
        progress: told the bytes written.

    Returns:
        The specs, in the order written: what the manifest lists.

    Raises:
        ArtifactError: the disk has not the room.
        ValueError: an array is not what its spec says, or a name occurs twice.
    """
    todo = list(tensors)
    specs = tuple(spec for spec, _ in todo)
    header, starts, end = _layout(specs)
    _check_room(path, end)
    try:
        with open(path, "wb") as file:
            file.write(header)
            for (spec, read), start in zip(todo, starts, strict=True):
                file.write(bytes(start - file.tell()))
                _write_array(file, spec, read(), end, progress)
    except OSError as error:
        raise_if_full(error, path, end)
        raise
    return specs


def map_file(path: Path, tensors: Iterable[TensorSpec]) -> dict[str, Array]:
    """Map a weight file and return read-only views by name, without reading the data.

    Several processes that map the same file share its pages. bfloat16 comes as uint16 bits.

    Raises:
        ArtifactError: the file cannot be read, or is not what `tensors` describe: cut short,
            another header.
    """
    try:
        with open(path, "rb") as file:
            placed = read_header(file, path)
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read: {error.strerror}; check its permissions."
        ) from error
    views: dict[str, Array] = {}
    for spec in tensors:
        found = placed.pop(spec.name, None)
        tag, dtype = _DTYPES[spec.dtype]
        if found is None or (found.dtype, found.shape) != (tag, spec.shape):
            has = "does not hold it" if found is None else f"has {found.dtype} {list(found.shape)}"
            raise ArtifactError(
                f"{path} does not fit the manifest, which says {spec.name} is {tag} "
                f"{list(spec.shape)}: the file {has}; convert the checkpoint again."
            )
        views[spec.name] = np.ndarray(found.shape, dtype, buffer=mapping, offset=found.start)
    extra = sorted(name for name in placed if not name.startswith(_PAD))
    if extra:
        raise ArtifactError(
            f"{path} holds tensors that the manifest does not list ({', '.join(extra)}); "
            "convert the checkpoint again."
        )
    return views


def read_header(file: BinaryIO, path: Path) -> dict[str, Placed]:
    """Read and check a safetensors header against the file's size.

    Raises:
        ArtifactError: it is not safetensors, or the header promises bytes the file does not have.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _HEADER_LIMIT):
        raise ArtifactError(f"{path} is not a safetensors file or was cut short ({size} bytes).")
    try:
        entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        placed = {name: _placed(entry, 8 + length) for name, entry in entries.items()}
    except _MALFORMED as error:
        raise ArtifactError(f"{path} has a safetensors header that cannot be read.") from error
    for name, entry in placed.items():
        if not 8 + length <= entry.start <= entry.end <= size or _declared(entry) is False:
            raise ArtifactError(
                f"{path} says {name} lies at bytes {entry.start} to {entry.end}, which does not "
                f"fit its shape or the file's {size} bytes; copy the file again."
            )
    return placed


def _layout(specs: tuple[TensorSpec, ...]) -> tuple[bytes, list[int], int]:
    """Return the file's first bytes (length and header), each tensor's start, and the file size."""
    entries: dict[str, Any] = {}
    offsets: list[int] = []
    at = 0
    for spec in specs:
        if spec.name in entries:
            raise ValueError(f"weight {spec.name} is written twice")
        gap = -at % ALIGNMENT
        if gap:
            entries[f"{_PAD}{len(entries)}"] = _entry("U8", (gap,), at, at + gap)
        at += gap
        end = at + tensor_bytes(spec)
        entries[spec.name] = _entry(_DTYPES[spec.dtype][0], _sizes(spec), at, end)
        offsets.append(at)
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    base = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, [base + o for o in offsets], base + at


def _entry(tag: str, shape: tuple[int, ...], start: int, end: int) -> dict[str, Any]:
    return {"dtype": tag, "shape": list(shape), "data_offsets": [start, end]}


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    """The shape as numbers; a symbolic size has no place in a weight file (ValueError)."""
    sizes = tuple(size for size in spec.shape if isinstance(size, int))
    if len(sizes) != len(spec.shape):
        raise ValueError(f"weight {spec.name} has a symbolic size in {spec.shape}")
    return sizes


def _placed(entry: Any, base: int) -> Placed:
    start, end = entry["data_offsets"]
    shape = tuple(int(size) for size in entry["shape"])
    return Placed(str(entry["dtype"]), shape, base + int(start), base + int(end))


def _declared(entry: Placed) -> bool | None:
    """Whether the bytes fit dtype and shape; None for a dtype this runtime does not know."""
    for tag, dtype in _DTYPES.values():
        if tag == entry.dtype:
            return entry.end - entry.start == math.prod(entry.shape) * dtype.itemsize
    return None


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise ArtifactError(
            f"No room to write {path}: it takes {needed} bytes and {free} are free there; "
            "free some space or write to another disk."
        )


def _write_array(
    file: BinaryIO, spec: TensorSpec, array: Array, total: int, progress: Progress
) -> None:
    """Append one array in chunks and report the bytes written so far."""
    expected = numpy_dtype(spec.dtype)
    if array.dtype != expected or array.shape != spec.shape:
        raise ValueError(
            f"weight {spec.name} is {array.dtype} {array.shape}, not {expected} {spec.shape}"
        )
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    for start in range(0, len(data), _CHUNK):
        file.write(data[start : start + _CHUNK])
        progress(ProgressEvent("weights", file.tell(), total, "bytes"))
