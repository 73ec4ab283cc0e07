"""Folder locks, writing through to the disk, and what a full one is called."""

import errno
import fcntl
import os
import shutil
from pathlib import Path

from mwc.runtime.errors import ArtifactError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system calls a full disk, a quota that is used up, and a file that may not grow."""


def how_to_make_room(error: OSError) -> str:
    """What helps against an error of NO_ROOM, but for writing elsewhere."""
    if error.errno == errno.EFBIG:
        return "raise the limit on the size of a file (ulimit -f)"
    return "make room there"


def raise_if_full(error: OSError, path: Path, needed: int | None = None) -> None:
    """Raise ArtifactError if `error` is of NO_ROOM; return otherwise.

    Args:
        error: what writing ended with.
        path: what was being written: a file, or the folder of several.
        needed: how many bytes it takes.
    """
    if error.errno not in NO_ROOM:
        return
    if error.errno == errno.EFBIG:
        large = "as large as it has to be" if needed is None else f"of {needed} bytes"
        raise ArtifactError(
            f"{path} cannot be written: a file {large} is not allowed there; "
            f"{how_to_make_room(error)} or write to a file system that takes larger files."
        ) from error
    free = shutil.disk_usage(path.parent).free
    wanted = "" if needed is None else f" {needed} bytes were to be written and"
    raise ArtifactError(
        f"No room left to write {path}:{wanted} {free} bytes are free there; "
        "free some space or write to another disk."
    ) from error


def lock_folder(folder: Path) -> int:
    """Lock a folder until the returned descriptor is closed.

    Raises:
        BlockingIOError: another process or writer holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def sync(path: Path) -> None:
    """Wait until a file's or folder's data is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
