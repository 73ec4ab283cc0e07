"""Changing an artifact in place: adding a compiled target to one that holds its weights."""

import contextlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

from mwc.runtime.artifact import Artifact, file_sha256, open_artifact
from mwc.runtime.disk import lock_folder, raise_if_full, sync
from mwc.runtime.errors import ArtifactError
from mwc.runtime.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    TargetEntry,
    check_manifest,
    manifest_text,
)


def add_target(
    path: str | Path, target: TargetEntry, mef: str | Path, *, force: bool = False
) -> Artifact:
    """Add a compiled target to an artifact that already holds the weights it needs.

    The file is copied in first and the manifest replaced by one rename, so a reader sees the
    artifact with the target or without it.

    Args:
        path: the artifact.
        target: what to add; its `mef` path is chosen here.
        mef: the compiled file.
        force: replace a target of the same name.

    Raises:
        ArtifactError: the artifact cannot be opened or has been compiled with another MAX, holds
            the target already, lacks its weights, is being changed by another process, or the
            disk is full.
    """
    folder = Path(os.path.realpath(path))
    artifact = open_artifact(folder)
    try:
        lock = lock_folder(folder)
    except BlockingIOError as error:
        raise ArtifactError(
            f"{folder} is being changed by another process; wait for it."
        ) from error
    try:
        return _add_target(open_artifact(folder), target, Path(mef), force)
    except OSError as error:
        raise_if_full(error, folder / MANIFEST_NAME)
        raise ArtifactError(f"{artifact.path} cannot be changed: {error.strerror}.") from error
    finally:
        os.close(lock)


def _add_target(artifact: Artifact, target: TargetEntry, mef: Path, force: bool) -> Artifact:
    """`add_target` on an artifact that is locked; the copied file goes if anything fails."""
    manifest = artifact.manifest
    old = [entry for entry in manifest.targets if entry.name == target.name]
    if old and not force:
        raise ArtifactError(
            f"{artifact.path} already holds the target {target.name}; pass --force to replace it."
        )
    sha256 = file_sha256(mef)
    relative = f"targets/{target.name}/whisper-{sha256[:12]}.mef"
    copy = artifact.path / relative
    copy.parent.mkdir(parents=True, exist_ok=True)
    kept = [file for file in manifest.files if file.path not in {relative, *(t.mef for t in old)}]
    files = [*kept, FileEntry(relative, sha256, mef.stat().st_size)]
    added = replace(
        manifest,
        targets=(*(t for t in manifest.targets if t not in old), replace(target, mef=relative)),
        files=tuple(sorted(files, key=lambda file: file.path)),
    )
    is_new = not artifact.holds(relative)
    try:
        check_manifest(added)
        shutil.copyfile(mef, copy)
        sync(copy)
        _replace_manifest(artifact.path, added)
    except BaseException as error:
        if is_new:
            copy.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                copy.parent.rmdir()
        if isinstance(error, ValueError):
            raise ArtifactError(
                f"{artifact.path} cannot take the target {target.name}: {error}; "
                "convert the checkpoint again with that target."
            ) from error
        raise
    for entry in old:
        if entry.mef != relative:
            (artifact.path / entry.mef).unlink(missing_ok=True)
    return Artifact(artifact.path, added)


def _replace_manifest(folder: Path, manifest: Manifest) -> None:
    """Put a new `manifest.json` in place of the old one by a rename."""
    partial = folder / f".{MANIFEST_NAME}.partial-{os.getpid()}"
    try:
        partial.write_text(manifest_text(manifest), encoding="utf-8")
        sync(partial)
        os.replace(partial, folder / MANIFEST_NAME)
    finally:
        partial.unlink(missing_ok=True)
    sync(folder)
