"""Safetensors files: the header is checked against the file before a byte of data is used.

Format: 8 bytes header length (little endian), a JSON header {name: {dtype, shape, data_offsets}},
then the data (https://github.com/huggingface/safetensors, "Format").
"""

import json
from math import prod
from pathlib import Path
from typing import Any

from mwc.compiler.checkpoint.files import ByteSource
from mwc.compiler.checkpoint.lazy import STORED, LazyTensor, tensor_in_file
from mwc.runtime.errors import CheckpointError, UnsupportedModel

MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Return a file's tensors by the names it gives them.

    Raises:
        CheckpointError: the header is damaged or claims what the file does not hold.
        UnsupportedModel: a tensor has a dtype mwc does not read (a quantised checkpoint).
    """
    source = ByteSource((path,))
    if source.size < 8:
        raise CheckpointError(f"{path} has {source.size} bytes and no safetensors header.")
    length = int.from_bytes(source.read(0, 8), "little")
    if length > min(MAX_HEADER, source.size - 8):
        raise CheckpointError(
            f"{path} claims a safetensors header of {length} bytes, but has {source.size - 8} "
            "bytes after its first 8; it is truncated or not a safetensors file."
        )
    try:
        header = json.loads(bytes(source.read(8, length)))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a safetensors header that is not a JSON object.")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    ranges = sorted(_range(name, entry, path) for name, entry in entries.items())
    end = 0
    for begin, stop, name in ranges:
        if begin != end:
            raise CheckpointError(
                f"{path} claims that {name} begins at byte {begin} of the data, where the one "
                f"before ends at {end}; its header is damaged."
            )
        end = stop
    if end != source.size - 8 - length:
        raise CheckpointError(
            f"{path} claims {end} bytes of data, but has {source.size - 8 - length}; "
            "it is truncated or its header is damaged, fetch it again."
        )
    return {
        name: tensor_in_file(
            source,
            8 + length + begin,
            tuple(entries[name]["shape"]),
            DTYPES[entries[name]["dtype"]],
        )
        for begin, _, name in ranges
    }


def _range(name: str, entry: Any, path: Path) -> tuple[int, int, str]:
    """Return (begin, end, name) of an entry whose shape fits its bytes."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sound = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        sound = sound and isinstance(dtype, str)
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise CheckpointError(f"{path} describes {name} without dtype, shape or place.")
    if dtype not in DTYPES:
        raise UnsupportedModel(
            f"{path} holds {name} as {dtype}; mwc reads {', '.join(DTYPES)}, "
            "so save it as one of these, or give the checkpoint from before its quantisation."
        )
    size = prod(shape) * STORED[DTYPES[dtype]].itemsize
    if end - begin != size:
        raise CheckpointError(
            f"{path} claims {end - begin} bytes for {name}, but {dtype} {shape} takes {size}; "
            "its header is damaged."
        )
    return begin, end, name
