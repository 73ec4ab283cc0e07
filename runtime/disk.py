"""Folder locks, writing through to the disk, and what a full one is called."""

import errno
import fcntl
import os
import shutil
from pathlib import Path

from mwc.runtime.errors import ArtifactError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system calls a full disk, a quota that is used up, and a file that may not grow."""


def raise_if_full(error: OSError, path: Path, needed: int | None = None) -> None:
    """Raise ArtifactError if `error` means that a disk or quota is full; return otherwise."""
    if error.errno not in NO_ROOM:
        return
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
