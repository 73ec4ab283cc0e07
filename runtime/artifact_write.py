"""Writing an artifact so that only a complete one is ever seen under its name.

Everything goes into a hidden sibling folder, on the same filesystem, and one rename publishes it.
The sibling has one name and is locked (flock on the folder) while its writer lives, so a second
writer of the same artifact is told so at once; what a killed one left in it is removed by the next.
"""

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from mwc.runtime.artifact import Artifact, file_sha256
from mwc.runtime.disk import lock_folder, raise_if_full, sync
from mwc.runtime.errors import ArtifactError
from mwc.runtime.manifest import (
    FORMAT,
    FORMAT_REVISION,
    MANIFEST_NAME,
    DetectorEntry,
    FileEntry,
    Manifest,
    Provenance,
    TargetEntry,
    WeightsEntry,
    check_manifest,
    manifest_data,
    manifest_text,
)
from mwc.runtime.progress import Progress, ProgressEvent, silent
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.weight_file import write_weights

__all__ = ["ArtifactWriter", "Contents", "write_weights"]

_PARTIAL = ".partial"
_REPLACED = ".replaced"


@dataclass(frozen=True)
class Contents:
    """What a manifest says of an artifact, but for its files; see `Manifest`."""

    spec: WhisperSpec
    targets: tuple[TargetEntry, ...]
    weights: tuple[WeightsEntry, ...]
    detector: DetectorEntry
    provenance: Provenance


class ArtifactWriter:
    """A context manager around a partial artifact; leaving it without `commit` removes it.

    Errors raised inside that mean a full disk become ArtifactError.

        with ArtifactWriter(out, force=False) as writer:
            tensors = write_weights(writer.path("weights/f32.safetensors"), …)
            …
            contents = Contents(spec, targets, (weights,), detector, provenance)
            artifact = writer.preview(contents)  # to verify it
            writer.commit(contents)
    """

    def __init__(self, out: str | Path, *, force: bool = False) -> None:
        """Take the artifact's folder, and whether to replace an artifact that is there.

        Entering creates missing parents and the partial folder, and raises ArtifactError where
        `out` cannot be written, is being written by somebody else, or may not be replaced:
        without `force`, or because it is not an artifact, or because it holds files that are not
        part of one.
        """
        self._out = Path(os.path.realpath(out))
        self._force = force
        self._folder = self._out.with_name(f".{self._out.name}{_PARTIAL}")
        self._hashed: dict[str, tuple[int, FileEntry]] = {}
        self._made_parents: list[Path] = []
        self._lock: int | None = None
        self._committed = False

    @property
    def folder(self) -> Path:
        """The partial artifact's folder."""
        return self._folder

    def __enter__(self) -> "ArtifactWriter":
        try:
            self._make_parents()
            self._lock = _claim(self._folder)
            _put_back(self._out)
            _check_replaceable(self._out, self._force)
        except BaseException as error:
            self._discard()
            if isinstance(error, BlockingIOError):
                raise ArtifactError(
                    f"{self._out} is already being written by another conversion; let it end."
                ) from error
            if isinstance(error, OSError):
                raise_if_full(error, self._out)
                raise ArtifactError(
                    f"{self._out} cannot be written: {error.strerror}; choose another folder."
                ) from error
            raise
        return self

    def path(self, relative: str) -> Path:
        """Where to write a file of the artifact; its folder is created."""
        path = self._folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def preview(self, contents: Contents, progress: Progress = silent) -> Artifact:
        """The artifact as it stands, for verifying it: no manifest is written, so it cannot load.

        Raises:
            ValueError: the parts do not fit each other or the files; see `check_manifest`.
        """
        files = self._hash_files(progress)
        manifest = Manifest(FORMAT, FORMAT_REVISION, **vars(contents), files=files)
        check_manifest(manifest)
        return Artifact(self._folder, manifest)

    def commit(self, contents: Contents, progress: Progress = silent) -> Artifact:
        """Hash every file, write the manifest, and publish the artifact under its name.

        An artifact that is replaced stays whole until the new one stands in its place.

        Raises:
            ArtifactError: something else was put at the name in the meantime, or the disk is full.
            ValueError: as for `preview`.
        """
        manifest = self.preview(contents, progress).manifest
        (self._folder / MANIFEST_NAME).write_text(manifest_text(manifest), encoding="utf-8")
        for path in [*self._folder.rglob("*"), self._folder]:
            sync(path)
        _check_replaceable(self._out, self._force)
        _publish(self._folder, self._out)
        self._committed = True
        sync(self._out.parent)
        return Artifact(self._out, manifest)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, OSError):
                raise_if_full(error, self._out)
        finally:
            self._discard()

    def _hash_files(self, progress: Progress) -> tuple[FileEntry, ...]:
        """Size and SHA-256 of every file, sorted by path; an unchanged file is hashed once."""
        paths = sorted(path for path in self._folder.rglob("*") if path.is_file())
        total = sum(path.stat().st_size for path in paths)
        done = 0
        entries = []
        for path in paths:
            relative = path.relative_to(self._folder).as_posix()
            stat = path.stat()
            known = self._hashed.get(relative)
            if known is None or (known[0], known[1].size) != (stat.st_mtime_ns, stat.st_size):
                entry = FileEntry(relative, file_sha256(path), stat.st_size)
                known = self._hashed[relative] = (stat.st_mtime_ns, entry)
            entries.append(known[1])
            done += stat.st_size
            progress(ProgressEvent("hash", done, total, "bytes"))
        return tuple(entries)

    def _make_parents(self) -> None:
        """Create the missing folders above `out`, remembering them."""
        missing = [folder for folder in self._out.parents if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            self._made_parents.append(folder)

    def _discard(self) -> None:
        """Remove what an unfinished conversion made, and let go of the lock."""
        if self._lock is not None:
            if not self._committed:
                shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            self._lock = None
        if not self._committed:
            with contextlib.suppress(OSError):
                while self._made_parents:
                    self._made_parents.pop().rmdir()


def _check_replaceable(out: Path, force: bool) -> None:
    """Raise ArtifactError if something stands at `out` that may not be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise ArtifactError(
            f"{out} already exists; choose another folder, or pass --force to replace an artifact."
        )
    try:
        listed = {str(entry["path"]) for entry in manifest_data(out)["files"]}
    except (ArtifactError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{out} is not an mwc artifact, so --force does not replace it; choose another folder."
        ) from error
    held = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    foreign = sorted(held - listed - {MANIFEST_NAME})
    if foreign:
        raise ArtifactError(
            f"{out} holds files that are not part of the artifact ({', '.join(foreign[:5])}), so "
            "it is not replaced; move them away or choose another folder."
        )


def _replaced(out: Path) -> Path:
    """Where an artifact lies while another takes its place."""
    return out.with_name(f".{out.name}{_REPLACED}")


def _publish(folder: Path, out: Path) -> None:
    """Rename the finished folder to its name; what it replaces is removed after that."""
    replaced = _replaced(out)
    try:
        if out.exists() and any(out.iterdir()):
            os.rename(out, replaced)
        os.rename(folder, out)
    except BaseException as error:
        if replaced.exists() and not out.exists():
            os.rename(replaced, out)
        if isinstance(error, OSError):
            raise ArtifactError(
                f"{out} cannot be put in place: {error.strerror}; was it changed meanwhile?"
            ) from error
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _claim(folder: Path) -> int:
    """Make a partial folder, or take over what a killed writer left, and lock it; it is empty.

    Raises:
        BlockingIOError: a live writer holds it.
    """
    while True:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        # Its writer may end in between, by renaming or removing what was just seen or made here.
        with contextlib.suppress(FileNotFoundError):
            lock = lock_folder(folder)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), folder.stat()):
                    break
            os.close(lock)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return lock


def _put_back(out: Path) -> None:
    """Put back what a killed writer of `out` was about to replace, or remove what it replaced."""
    replaced = _replaced(out)
    if replaced.exists() and not out.exists():
        os.rename(replaced, out)
    shutil.rmtree(replaced, ignore_errors=True)
