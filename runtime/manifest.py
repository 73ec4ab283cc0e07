"""What an artifact's `manifest.json` holds, and how it becomes JSON and back.

    manifest.json                    this file, with its own SHA-256
    weights/<precision>.safetensors  shared by every target of that precision
    targets/<target>/whisper.mef     the compiled graphs (whisper-<hash>.mef if added later)
    tokenizer/                       vocab.tiktoken, special_tokens.json
    parity.json                      the verification report

Frozen facts only. `artifact.py` reads and checks a folder, `artifact_write.py` makes one.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mwc.runtime.errors import ArtifactError
from mwc.runtime.spec import (
    ITEM_BYTES,
    GraphSignature,
    TensorSpec,
    WhisperSpec,
    from_json,
    to_json,
)

FORMAT = "mwc-artifact"
FORMAT_REVISION = 13
"""Raised with every change of the files or of the graphs' inputs and outputs."""
MANIFEST_NAME = "manifest.json"
PARITY_NAME = "parity.json"
_DIGEST_KEY = "sha256"


@dataclass(frozen=True)
class FileEntry:
    """One file: its path relative to the artifact ("/" between parts), SHA-256 in hex, bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class TargetEntry:
    """The graphs compiled for one kind of machine.

    Attributes:
        name: unique in the artifact and a folder name, for example "cpu-x86-64-v3".
        device: "cpu", or the accelerator API MAX was given, for example "cuda".
        arch: "host", a CPU level ("x86-64-v3"), or a GPU architecture ("sm_90a").
        cpu_features: /proc/cpuinfo flags the code needs; empty for a GPU.
        cpu_model: the CPU a "host" target was compiled on, for people; it is not checked.
        precision: "f32", "bf16", "f16", "int8": names the weights it takes.
        kv_dtype: element type of its cross-attention caches, for example "float32"; with "int8"
            self-attention has float16.
        mef: path of the compiled file, relative to the artifact.
        graphs: its entry points.
    """

    name: str
    device: str
    arch: str
    cpu_features: tuple[str, ...]
    cpu_model: str | None
    precision: str
    kv_dtype: str
    mef: str
    graphs: tuple[GraphSignature, ...]


@dataclass(frozen=True)
class WeightsEntry:
    """One weight file: its precision, its path relative to the artifact, its tensors in order."""

    precision: str
    path: str
    tensors: tuple[TensorSpec, ...]

    def item_bytes(self, part: str) -> float:
        """Bytes of a weight, on average over the matrices of a part ("encoder", "decoder.layers").

        A float32 artifact has matrices in float16 too: those that lose nothing by it.
        """
        matrices = [
            (math.prod(map(int, tensor.shape)), ITEM_BYTES[tensor.dtype])
            for tensor in self.tensors
            if tensor.name.startswith(f"{part}.") and len(tensor.shape) > 1
            if "embed_positions" not in tensor.name and not _is_vectors(tensor.name)
        ]
        return sum(size * item for size, item in matrices) / sum(size for size, _ in matrices)


def _is_vectors(name: str) -> bool:
    """Whether a tensor holds a vector for each layer rather than a matrix."""
    return name.endswith((".bias", ".scale", "_norm.weight"))


@dataclass(frozen=True)
class DetectorEntry:
    """The speech detector whose weights the artifact holds, beside the checkpoint's.

    Attributes:
        name: "silero-vad".
        version: of the network, for example "6.2": another version hears speech elsewhere.
        package: the Python package that its weights were read from.
        package_version: that package's version.
        sha256: of the file in it, in hex.
    """

    name: str
    version: str
    package: str
    package_version: str
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """Where an artifact comes from.

    Attributes:
        source: the checkpoint, as the user wrote it.
        kind: its layout: "hub", "folder", "openai", "ctranslate2", "ggml", "package".
        revision: the Hub commit, or None.
        files: (name, SHA-256) of every checkpoint file that was read.
        licence: as the checkpoint states it, or None.
        mwc_version: the mwc that wrote the artifact.
        max_version: the MAX that compiled it; the runtime needs the same one.
        created: UTC, ISO 8601.
        options: the conversion's options as plain JSON values.
        notes: what was derived or is unusual, one sentence each.
        mojo_version: the Mojo that compiled the kernels, where known.
    """

    source: str
    kind: str
    revision: str | None
    files: tuple[tuple[str, str], ...]
    licence: str | None
    mwc_version: str
    max_version: str
    created: str
    options: dict[str, Any]
    notes: tuple[str, ...]
    mojo_version: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything `manifest.json` says."""

    format: str
    revision: int
    spec: WhisperSpec
    targets: tuple[TargetEntry, ...]
    weights: tuple[WeightsEntry, ...]
    detector: DetectorEntry
    provenance: Provenance
    files: tuple[FileEntry, ...]


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json` alone.

    Raises:
        ArtifactError: as `open_artifact`, as far as the manifest shows it.
    """
    data = manifest_data(folder)
    revision = data.get("revision")
    if revision != FORMAT_REVISION:
        raise ArtifactError(
            f"{folder} has artifact format revision {revision!r} and this mwc reads "
            f"{FORMAT_REVISION}; convert its checkpoint again with this mwc"
            + (", or install a newer mwc." if _is_newer(revision) else ".")
        )
    try:
        return parse_manifest(data)
    except ValueError as error:
        raise ArtifactError(
            f"{folder / MANIFEST_NAME} is damaged or was altered: {error}; "
            "copy the artifact again, or convert its checkpoint again."
        ) from error


def manifest_data(folder: Path) -> dict[str, Any]:
    """Read `manifest.json` as an object of this format, whatever its revision.

    Raises:
        ArtifactError: there is none, or it is not JSON, or of another format.
    """
    if not folder.exists():
        raise ArtifactError(
            f"There is no artifact at {folder}; mwc convert SOURCE {folder} makes it."
        )
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder} is a file; an mwc artifact is a folder with {MANIFEST_NAME}."
        )
    try:
        data = json.loads((folder / MANIFEST_NAME).read_bytes())
    except FileNotFoundError:
        raise ArtifactError(
            f"{folder} is not an mwc artifact: it has no {MANIFEST_NAME}; "
            f"if it is a checkpoint, mwc convert {folder} OUT makes an artifact of it."
        ) from None
    except OSError as error:
        raise ArtifactError(
            f"{folder / MANIFEST_NAME} cannot be read: {error.strerror}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{folder / MANIFEST_NAME} is not JSON, so it is cut short or damaged; "
            "copy the artifact again, or convert its checkpoint again."
        ) from error
    found = data.get("format") if isinstance(data, dict) else None
    if not isinstance(data, dict) or found != FORMAT:
        raise ArtifactError(
            f"{folder} is not an mwc artifact: its {MANIFEST_NAME} says format {found!r}, "
            f"not {FORMAT!r}."
        )
    return data


def manifest_text(manifest: Manifest) -> str:
    """Return the text of `manifest.json`: indented JSON with a SHA-256 over its own values."""
    data = to_json(manifest)
    data[_DIGEST_KEY] = _digest(data)
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def parse_manifest(data: dict[str, Any]) -> Manifest:
    """Build a manifest from the JSON object in `manifest.json`.

    The caller has already checked the format and its revision.

    Raises:
        ValueError: it was altered, or a field is missing, unknown or contradicts another.
    """
    fields = dict(data)
    if fields.pop(_DIGEST_KEY, None) != _digest(fields):
        raise ValueError("its contents do not match its own SHA-256")
    try:
        manifest = from_json(Manifest, fields)
        check_manifest(manifest)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"a field has the wrong type ({error})") from error
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Check that a manifest's parts fit each other.

    Raises:
        ValueError: a path leaves the artifact or is listed twice, a target or weight file is not
            among the files, or a target names weights that the artifact does not hold.
    """
    paths = [entry.path for entry in manifest.files]
    for path in paths:
        _check_relative(path)
    _check_unique("file", paths)
    _check_unique("target", [target.name for target in manifest.targets])
    _check_unique("precision", [weights.precision for weights in manifest.weights])
    listed = set(paths)
    for path in [w.path for w in manifest.weights] + [t.mef for t in manifest.targets]:
        if path not in listed:
            raise ValueError(f"{path} is not among the files")
    tensors = {w.precision: {tensor.name for tensor in w.tensors} for w in manifest.weights}
    for target in manifest.targets:
        if target.precision not in tensors:
            raise ValueError(
                f"target {target.name} needs {target.precision} weights; none are here"
            )
        named = {name for graph in target.graphs for name in graph.weights}
        absent = sorted(named - tensors[target.precision])
        if absent:
            raise ValueError(
                f"target {target.name} needs weights {', '.join(absent)}; none is here"
            )


def _is_newer(revision: object) -> bool:
    return isinstance(revision, int) and revision > FORMAT_REVISION


def _digest(fields: dict[str, Any]) -> str:
    """SHA-256 in hex of the values, in a form that does not depend on spacing or key order."""
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _check_relative(path: str) -> None:
    """Raise ValueError unless `path` stays inside the artifact."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or path == MANIFEST_NAME:
        raise ValueError(f"{path!r} is not a path of a file inside the artifact")


def _check_unique(what: str, names: list[str]) -> None:
    """Raise ValueError if a name occurs twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} {', '.join(twice)} is listed twice")
