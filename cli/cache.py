"""A checkpoint in place of an artifact: converted once into the cache, found there afterwards."""

import hashlib
import os
import re
from importlib.metadata import version
from pathlib import Path

from mwc.cli.console import Display
from mwc.runtime.errors import ArtifactError
from mwc.runtime.progress import ProgressEvent

_CHECKPOINT_PARTS = ("config.json", "model.bin")
"""Files that a Hugging Face or a CTranslate2 folder holds, and an artifact does not."""


def cache_folder() -> Path:
    """Where converted checkpoints are kept: MWC_CACHE, else mwc in XDG_CACHE_HOME or ~/.cache"""
    own = os.environ.get("MWC_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "mwc"


def artifact_for(model: str, display: Display) -> Path:
    """Return the artifact to load for what the user named: an artifact, or a checkpoint.

    A checkpoint is converted (f32, this machine's CPU, verified) the first time, which is said
    on stderr, and taken from the cache from then on. The cache's entry depends on the source,
    the sizes and dates of its files, the versions of mwc and MAX, and the CPU; a Hub id without
    `mwc convert --revision` stays at the commit it had when it was first converted.

    Raises:
        ArtifactError: there is neither an artifact nor a checkpoint of that name.
        MwcError: whatever the conversion raises.
    """
    path = Path(model)
    if path.is_dir() and not names_checkpoint(model):
        return path
    if not names_checkpoint(model):
        raise ArtifactError(
            f"there is no artifact or checkpoint at {model!r}: give a folder that `mwc convert` "
            "made, a checkpoint's folder or file, a Hub id such as openai/whisper-tiny.en, or "
            "pkg:tiny.en"
        )
    entry = cache_folder() / entry_name(model)
    if not _is_usable(entry):
        _convert_into(entry, model, display)
    return entry


def names_checkpoint(model: str) -> bool:
    """Whether a name is a checkpoint's: a file, a folder that holds one, `pkg:…`, or a Hub id."""
    path = Path(model)
    if model.startswith("pkg:") or path.is_file():
        return True
    if path.is_dir():
        return any((path / part).is_file() for part in _CHECKPOINT_PARTS)
    from mwc.compiler.checkpoint.hub import is_hub_id

    # owner/name, unless owner is a folder here: then a mistyped path is the likelier reading.
    return is_hub_id(model) and not path.parent.is_dir()


def entry_name(source: str) -> str:
    """The cache entry of a source on this machine: a readable name and a digest."""
    from mwc.runtime.artifact import FORMAT_REVISION
    from mwc.runtime.platform import cpu_model, host_features

    facts = (
        str(Path(source).resolve()) if Path(source).exists() else source,
        *_fingerprint(Path(source)),
        version("mwc"),
        version("max"),
        str(FORMAT_REVISION),
        str(cpu_model()),
        *host_features(),
    )
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(source).name).strip("-")
    return f"{readable}-{digest[:12]}"


def _fingerprint(path: Path) -> list[str]:
    """Name, size and date of every file of a local checkpoint; nothing for one that is not."""
    names = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(name, name.stat()) for name in names if name.is_file()]
    return [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]


def _is_usable(entry: Path) -> bool:
    """Whether the cache holds an entry that opens; a damaged one is converted again."""
    from mwc.runtime.artifact import open_artifact

    if not entry.exists():
        return False
    try:
        open_artifact(entry)
    except ArtifactError:
        return False
    return True


def _convert_into(entry: Path, source: str, display: Display) -> None:
    from mwc.compiler import ConvertOptions, convert

    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"converted checkpoints are kept in {entry.parent}, which cannot be made "
            f"({error.strerror}); set MWC_CACHE to another folder, or use `mwc convert`"
        ) from error
    said = False

    def progress(event: ProgressEvent) -> None:
        """Say what is being done once the source has been found to be a checkpoint."""
        nonlocal said
        if not said:
            said = True
            display.note(f"converting {source} once into {entry}; later runs start from there")
        display(event)

    try:
        result = convert(source, entry, ConvertOptions(force=entry.exists()), progress)
    except ArtifactError:
        # Another process may have finished the same conversion in the meantime.
        if not _is_usable(entry):
            raise
        return
    for note in result.notes:
        display.note(note)
    if result.report is not None:
        display.note(result.report.summary()[0])
