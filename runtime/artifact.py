"""Opening an artifact: everything is checked before anything of it runs.

A `.mef` checks neither the CPU it runs on nor the shapes of the weights it is given, so format,
MAX version, file sizes, CPU features and weight shapes are compared with the manifest here.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mwc.runtime.errors import ArtifactError, OptionError, TargetError
from mwc.runtime.manifest import (
    FORMAT,
    FORMAT_REVISION,
    MANIFEST_NAME,
    PARITY_NAME,
    DetectorEntry,
    FileEntry,
    Manifest,
    Provenance,
    TargetEntry,
    WeightsEntry,
    manifest_data,
    read_manifest,
)
from mwc.runtime.platform import cpu_features, cpu_model
from mwc.runtime.progress import Progress, ProgressEvent, silent
from mwc.runtime.weight_file import Array, map_file

__all__ = [
    "FORMAT",
    "FORMAT_REVISION",
    "MANIFEST_NAME",
    "PARITY_NAME",
    "Artifact",
    "DetectorEntry",
    "FileEntry",
    "Manifest",
    "Provenance",
    "TargetEntry",
    "WeightsEntry",
    "check_hashes",
    "file_sha256",
    "installed_max",
    "manifest_data",
    "map_weights",
    "missing_features",
    "open_artifact",
    "read_manifest",
    "select_target",
]

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Artifact:
    """An artifact's folder and what its manifest says."""

    path: Path
    manifest: Manifest

    def holds(self, relative: str) -> bool:
        """Whether the manifest lists this file."""
        return any(entry.path == relative for entry in self.manifest.files)

    def file(self, relative: str) -> Path:
        """Where a file of the manifest lies; one it does not list raises ArtifactError."""
        if not self.holds(relative):
            raise ArtifactError(f"{self.path} holds no {relative}; convert the checkpoint again.")
        return self.path / relative


def open_artifact(path: str | Path, *, check_max: bool = True) -> Artifact:
    """Open an artifact's folder.

    Args:
        path: the folder `mwc convert` wrote.
        check_max: also require the MAX version that compiled it; False is for looking at it only.

    Raises:
        ArtifactError: it is missing, not an artifact, of another format revision or MAX version,
            cut short or altered; the message says what to do.
    """
    try:
        folder = Path(path)
    except TypeError:
        raise ArtifactError(
            f"{path!r} is not a path; give the folder that mwc convert wrote, as text or a Path."
        ) from None
    artifact = Artifact(folder, read_manifest(folder))
    if check_max:
        _check_max(artifact)
    wrong = [text for entry in artifact.manifest.files if (text := _wrong_size(folder, entry))]
    if wrong:
        raise ArtifactError(
            f"{folder} is damaged: {'; '.join(wrong)}. Copy it again, or convert "
            f"{artifact.manifest.provenance.source} again."
        )
    return artifact


def check_hashes(
    artifact: Artifact, progress: Progress = silent, paths: Iterable[str] | None = None
) -> None:
    """Compare files with the SHA-256 the manifest lists.

    Args:
        artifact: the artifact.
        progress: told the bytes read.
        paths: the files to check, relative to the artifact; None for all.

    Raises:
        ArtifactError: at least one differs; the message names every one.
    """
    wanted = None if paths is None else set(paths)
    entries = [e for e in artifact.manifest.files if wanted is None or e.path in wanted]
    total = sum(entry.size for entry in entries)
    done = 0
    damaged = []
    for entry in entries:
        if file_sha256(artifact.path / entry.path) != entry.sha256:
            damaged.append(entry.path)
        done += entry.size
        progress(ProgressEvent("check", done, total, "bytes"))
    if damaged:
        raise ArtifactError(
            f"{artifact.path} is damaged: {', '.join(damaged)} does not have the SHA-256 in the "
            f"manifest; copy it again, or convert {artifact.manifest.provenance.source} again."
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex; one that cannot be read raises ArtifactError."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_CHUNK):
                digest.update(block)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def select_target(
    artifact: Artifact, device: str = "auto", accelerators: Iterable[tuple[str, str]] = ()
) -> TargetEntry:
    """Choose the target to run on this machine.

    Args:
        artifact: the artifact.
        device: "auto" (an accelerator when one fits, else the CPU), "cpu", "gpu", or a target's
            name.
        accelerators: (API, architecture) of the accelerators at hand, for example
            ("cuda", "sm_90a"), as the caller learnt them from MAX.

    Returns:
        Among the targets that can run here, an accelerator's before the CPU's, and the CPU target
        that uses most of this CPU.

    Raises:
        OptionError: `device` is none of the words above.
        TargetError: no target of that device can run here; the message says why and what to do.
    """
    targets = artifact.manifest.targets
    names = [target.name for target in targets]
    if device not in ("auto", "cpu", "gpu", *names):
        raise OptionError(
            f"device is {device!r}; it must be auto, cpu, gpu, or a target of {artifact.path}: "
            f"{', '.join(names)}."
        )
    wanted = [target for target in targets if _is_wanted(target, device)]
    if not wanted:
        raise TargetError(
            f"{artifact.path} holds no {device} target, only {', '.join(names) or 'none at all'}; "
            f"{_how_to_add(artifact, device)}."
        )
    present = frozenset(accelerators)
    obstacles = {target.name: _obstacle(target, present) for target in wanted}
    able = [target for target in wanted if obstacles[target.name] is None]
    if not able:
        reasons = "; ".join(f"{name} {why}" for name, why in obstacles.items())
        remedy = (
            "convert with a target that fits, for example mwc convert … --target cpu:x86-64-v3, or "
            "add one to this artifact with --add-target"
        )
        others = [t for t in targets if t not in wanted and _obstacle(t, present) is None]
        if others:
            raise TargetError(
                f"{artifact.path} has no {device} target that can run on this machine: {reasons}; "
                f"use --device {others[0].device}, which can, or {remedy}."
            )
        raise TargetError(f"{artifact.path} cannot run on this machine: {reasons}; {remedy}.")
    return max(able, key=lambda target: (target.device != "cpu", len(target.cpu_features)))


def _how_to_add(artifact: Artifact, device: str) -> str:
    """What to do where an artifact holds no target for the CPU, or none for a GPU."""
    if device == "cpu":
        return f"mwc convert {artifact.path} --add-target cpu adds it"
    if artifact.manifest.weights[0].precision == "int8":
        return (
            "use --device cpu, or convert its checkpoint once more for your GPU, for example with "
            "--precision bf16 --target cuda:sm_90a: int8 weights are for CPUs"
        )
    return (
        f"use --device cpu, or add your GPU's, for example with mwc convert {artifact.path} "
        "--add-target cuda:sm_90a"
    )


def missing_features(target: TargetEntry) -> tuple[str, ...]:
    """The CPU features a target needs and this CPU lacks, sorted; empty where it can run."""
    if not target.cpu_features:
        return ()
    return tuple(sorted(set(target.cpu_features) - cpu_features()))


def map_weights(artifact: Artifact, precision: str) -> dict[str, Array]:
    """Map the weights of one precision: read-only views by name, shared between processes.

    bfloat16 comes as uint16 bits. Nothing is read until it is used.

    Raises:
        ArtifactError: there are none of that precision, or the file does not fit the manifest.
    """
    entry = stored_weights(artifact, precision)
    return map_file(artifact.file(entry.path), entry.tensors)


def stored_weights(artifact: Artifact, precision: str) -> WeightsEntry:
    """What the manifest says of the weights of one precision.

    Raises:
        ArtifactError: there are none of that precision.
    """
    for entry in artifact.manifest.weights:
        if entry.precision == precision:
            return entry
    held = ", ".join(entry.precision for entry in artifact.manifest.weights)
    raise ArtifactError(f"{artifact.path} holds no {precision} weights, only {held or 'none'}.")


def installed_max() -> str | None:
    """The version of the installed `max` package, or None; does not import it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("max")
    except PackageNotFoundError:
        return None


def _check_max(artifact: Artifact) -> None:
    provenance = artifact.manifest.provenance
    installed = installed_max()
    if installed == provenance.max_version:
        return
    has = "no MAX is installed" if installed is None else f"MAX {installed} is installed"
    raise ArtifactError(
        f"{artifact.path} was compiled with MAX {provenance.max_version} and {has}; convert "
        f"{provenance.source} again, or pip install max=={provenance.max_version}."
    )


def _wrong_size(folder: Path, entry: FileEntry) -> str | None:
    """What is wrong with a file's size, or None."""
    try:
        size = (folder / entry.path).stat().st_size
    except OSError:
        return f"{entry.path} is missing"
    if size != entry.size:
        return f"{entry.path} has {size} bytes instead of {entry.size}"
    return None


def runs_on(target: TargetEntry, api: str, arch: str) -> bool:
    """Whether a target's code runs on an accelerator of that API and architecture.

    The "a" of sm_90a says that code uses what only that architecture has, not another GPU.
    """
    return (target.device, target.arch.removesuffix("a")) == (api, arch.removesuffix("a"))


def _is_wanted(target: TargetEntry, device: str) -> bool:
    if device == "gpu":
        return target.device != "cpu"
    return device in ("auto", target.device, target.name)


def _obstacle(target: TargetEntry, accelerators: frozenset[tuple[str, str]]) -> str | None:
    """Why a target cannot run here, or None."""
    if target.device != "cpu":
        if any(runs_on(target, *accelerator) for accelerator in accelerators):
            return None
        present = ", ".join(f"{api} {arch}" for api, arch in sorted(accelerators)) or "none"
        return f"needs a {target.device} {target.arch} (present: {present})"
    missing = missing_features(target)
    return f"needs {', '.join(missing)}, which {cpu_model()} lacks" if missing else None
