"""Hugging Face Hub ids, through the huggingface-hub client.

Its settings are respected: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE. Only what a
conversion needs is downloaded, safetensors in preference to .bin; a revision is resolved to its
commit first and everything is taken from that commit.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mwc.compiler.checkpoint.files import read_json
from mwc.compiler.checkpoint.huggingface import (
    CONFIG_FILES,
    OTHER_FILES,
    TOKENIZER_FILES,
    WEIGHT_FILES,
    refuse_other_models,
    shard_names,
)
from mwc.runtime.errors import CheckpointError, first_line
from mwc.runtime.progress import Progress, ProgressEvent, silent

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(source: str) -> bool:
    """Whether a source looks like "owner/name"."""
    return _ID.fullmatch(source) is not None


@dataclass(frozen=True)
class Snapshot:
    """A downloaded model: its folder in the cache, and the commit it is."""

    folder: Path
    commit: str


def fetch(source: str, revision: str | None, progress: Progress) -> Snapshot:
    """Download what is not cached yet, or with HF_HUB_OFFLINE find it in the cache.

    Raises:
        CheckpointError: there is no such model, revision or file, it is gated, or the hub cannot
            be reached; the message says which and what to do.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _guarded(source, revision, lambda: _from_cache(source, revision))
    return _guarded(source, revision, lambda: _download(source, revision, progress))


def _from_cache(source: str, revision: str | None) -> Snapshot:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(source, "config.json", revision=revision)
    if not isinstance(path, str):
        raise CheckpointError(_not_cached(source, revision))
    return Snapshot(Path(path).parent, Path(path).parent.name)


def _download(source: str, revision: str | None, progress: Progress) -> Snapshot:
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(source, revision=revision, files_metadata=True)
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
    if "config.json" not in sizes:
        raise CheckpointError(f"{source} has no config.json, so it is no transformers model.")
    # By the revision's name, so that the cache learns which commit it means; the rest by commit.
    quiet = _progress_bar(silent, None)
    path = hf_hub_download(source, "config.json", revision=revision, tqdm_class=quiet)
    folder = Path(path).parent
    refuse_other_models(read_json(Path(path)), source)  # before gigabytes are fetched

    def get(name: str, bar: type = quiet) -> Path:
        return Path(hf_hub_download(source, name, revision=folder.name, tqdm_class=bar))

    weights = _weight_files(source, sizes, get)
    small = [n for n in (*CONFIG_FILES, *TOKENIZER_FILES, *OTHER_FILES) if n in sizes]
    names = [name for name in (*small, *weights) if not (folder / name).exists()]
    known = [size for name in names if (size := sizes[name]) is not None]
    bar = _progress_bar(progress, sum(known) if len(known) == len(names) else None)
    for name in names:
        get(name, bar)
    return Snapshot(folder, folder.name)


def _weight_files(
    source: str, sizes: dict[str, int | None], get: Callable[[str], Path]
) -> Sequence[str]:
    """The weight files to fetch: the first layout the model has."""
    for name, _ in WEIGHT_FILES:
        if name in sizes:
            return [name]
        index = f"{name}.index.json"
        if index in sizes:
            shards = sorted(set(shard_names(get(index)).values()))
            absent = [shard for shard in shards if shard not in sizes]
            if absent:
                raise CheckpointError(f"{source} lacks {', '.join(absent)}, which {index} names.")
            return [index, *shards]
    names = " or ".join(name for name, _ in WEIGHT_FILES)
    raise CheckpointError(f"{source} has no weights that mwc reads ({names}, single or sharded).")


def _progress_bar(progress: Progress, total: int | None) -> type:
    """A stand-in for tqdm that reports "download" in bytes over all files together."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    state = {"done": 0.0}

    class Bar(tqdm):  # type: ignore[misc]
        """Shows nothing itself."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            kwargs.pop("name", None)
            super().__init__(*args, **kwargs)
            self._report(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            self._report(n or 0)
            return None

        def _report(self, amount: float) -> None:
            state["done"] += amount
            progress(ProgressEvent("download", state["done"], total, "bytes"))

    return Bar


def _guarded(source: str, revision: str | None, action: Callable[[], Snapshot]) -> Snapshot:
    """Run a hub call; every failure becomes one sentence."""
    from huggingface_hub import errors

    try:
        return action()
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{source} is gated: accept its terms on its page, then log in with `hf auth login` "
            "or set HF_TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(
            f"{source} has no revision {revision!r}; give a branch, a tag or a commit."
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"there is no model {source} on the hub, or it is private and you are not logged in "
            "(`hf auth login` or HF_TOKEN); a local folder of that name does not exist either."
        ) from None
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):  # the hub did not answer
            raise _failed(source, error.__cause__ or error) from None
        raise CheckpointError(f"{source} lacks a file it lists ({first_line(error)}).") from None
    except errors.HFValidationError as error:
        raise CheckpointError(
            f"{source} is no Hub id ({first_line(error)}), nor a local file or folder."
        ) from None
    except (errors.HfHubHTTPError, OSError, RuntimeError) as error:
        raise _failed(source, error) from None
    except Exception as error:
        if not type(error).__module__.startswith(("httpx", "httpcore")):
            raise
        raise _failed(source, error) from None


def _failed(source: str, error: BaseException) -> CheckpointError:
    """The error for everything that goes wrong on the way to the hub and back."""
    return CheckpointError(
        f"cannot download {source} ({first_line(error)}); "
        "try again (complete files are kept), or set HF_HUB_OFFLINE=1 to use what is cached."
    )


def _not_cached(source: str, revision: str | None) -> str:
    from huggingface_hub import constants

    at = f" at revision {revision!r}" if revision else ""
    return (
        f"{source}{at} is not in the cache ({constants.HF_HUB_CACHE}) and HF_HUB_OFFLINE is set; "
        "unset it to download."
    )
