"""Reading checkpoint files: exact byte ranges, JSON, and hashes with progress."""

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mwc.runtime.errors import CheckpointError
from mwc.runtime.progress import Progress, ProgressEvent

HASH_BLOCK = 1 << 22
"""Bytes hashed between two progress events: 4 MiB."""


@dataclass(frozen=True)
class ByteSource:
    """One or several files seen as one run of bytes (packages ship weights in parts).

    Attributes:
        paths: the files, in order.
        size: bytes in all.
    """

    paths: tuple[Path, ...]
    size: int = field(init=False)
    _sizes: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_sizes", tuple(file_size(path) for path in self.paths))
        object.__setattr__(self, "size", sum(self._sizes))

    @property
    def name(self) -> str:
        """The first file's path, for messages."""
        return str(self.paths[0])

    def read(self, offset: int, size: int) -> bytearray:
        """Return bytes [offset, offset + size).

        Raises:
            CheckpointError: they are not all there.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise CheckpointError(
                f"{self.name} ends at byte {self.size}, but {size} bytes at {offset} are needed; "
                "it is truncated or damaged, fetch it again."
            )
        buffer = bytearray(size)
        view, start = memoryview(buffer), 0
        for path, length in zip(self.paths, self._sizes, strict=True):
            begin, end = max(offset, start), min(offset + size, start + length)
            if begin < end:
                _read_into(path, begin - start, view[begin - offset : end - offset])
            start += length
        return buffer


class Cursor:
    """A place in a source from which small fields are taken one after the other.

    Reads ahead, so that a table of 50000 short tokens does not cost as many reads.
    """

    AHEAD = 1 << 16

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.offset = 0
        self._start, self._buffer = 0, b""

    def take(self, size: int) -> bytes:
        """Return the next bytes and move past them; CheckpointError where they are not there."""
        begin = self.offset - self._start
        if not (begin >= 0 and begin + size <= len(self._buffer)):
            ahead = min(self.AHEAD, self.source.size - self.offset)
            self._start, begin = self.offset, 0
            self._buffer = bytes(self.source.read(self.offset, max(size, ahead)))
        self.offset += size
        return self._buffer[begin : begin + size]

    def numbers(self, letters: str) -> tuple[int, ...]:
        """Return little-endian integers by their `struct` letters."""
        return struct.unpack("<" + letters, self.take(struct.calcsize("<" + letters)))


def _read_into(path: Path, offset: int, view: memoryview) -> None:
    """Fill a buffer from one file."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            count = file.readinto(view)
    except OSError as error:
        raise unreadable(path, error) from None
    if count != len(view):
        raise CheckpointError(f"{path} became shorter while it was read; try again.")


def file_size(path: Path) -> int:
    """Size in bytes; CheckpointError where the file cannot be seen."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error for a file that the system does not let us read."""
    reason = (error.strerror or str(error)).lower()
    return CheckpointError(f"cannot read {path}: {reason}.")


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text; CheckpointError where it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{path} is not UTF-8 text; fetch it again.") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's JSON object; CheckpointError where it holds anything else."""
    value = read_json_value(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}, not an object.")
    return value


def read_json_value(path: Path) -> Any:
    """Return a file's JSON value; CheckpointError where it is not JSON."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); fetch it again.") from None


def read_optional_json(path: Path) -> dict[str, Any]:
    """`read_json`, or {} where there is no such file."""
    return read_json(path) if path.is_file() else {}


def hash_files(
    files: Sequence[tuple[str, ByteSource]], progress: Progress
) -> tuple[tuple[str, str], ...]:
    """Return (name, SHA-256 in hex) of each file, reporting "read checkpoint" in bytes."""
    total = sum(source.size for _, source in files)
    done, result = 0, []
    for name, source in files:
        digest = hashlib.sha256()
        for offset in range(0, source.size, HASH_BLOCK):
            block = source.read(offset, min(HASH_BLOCK, source.size - offset))
            digest.update(block)
            done += len(block)
            progress(ProgressEvent("read checkpoint", done, total, "bytes"))
        result.append((name, digest.hexdigest()))
    return tuple(result)
