"""Opening a checkpoint: which layout a source is, and putting what it holds together."""

import os
from pathlib import Path

from mwc.compiler.checkpoint import hub, package
from mwc.compiler.checkpoint.contents import Contents, RawVocabulary
from mwc.compiler.checkpoint.ctranslate2 import read_ctranslate2
from mwc.compiler.checkpoint.files import hash_files, unreadable
from mwc.compiler.checkpoint.ggml import is_ggml, read_ggml
from mwc.compiler.checkpoint.huggingface import WEIGHT_FILES, read_huggingface
from mwc.compiler.checkpoint.lazy import LazyTensors
from mwc.compiler.checkpoint.openai import read_openai
from mwc.compiler.checkpoint.types import Checkpoint, Origin
from mwc.compiler.checkpoint.vocabulary_files import vocabulary_from_path
from mwc.compiler.vocabulary import build_vocabulary
from mwc.runtime.errors import CheckpointError, OptionError, UnsupportedModel
from mwc.runtime.progress import Progress, silent


def open_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    tokenizer: str | Path | None = None,
    progress: Progress = silent,
) -> Checkpoint:
    """Open a Whisper checkpoint without reading its weights, but hashing every file.

    Args:
        source: a local Hugging Face or CTranslate2 folder, an OpenAI `.pt`, a whisper.cpp `.bin`,
            `pkg:tiny.en` or `pkg:base`, or a Hub id `owner/name` (what exists locally wins).
        revision: branch, tag or commit, for a Hub id only.
        tokenizer: folder or file to take the vocabulary from instead of the source's own; needed
            for an OpenAI `.pt` where openai-whisper is not installed.
        progress: told about "download" and "read checkpoint", in bytes.

    Raises:
        CheckpointError: the source cannot be found, read or understood.
        UnsupportedModel: it is no Whisper of a kind mwc reads (quantised, an adapter, …).
        WeightMismatch: its LM head is not the token embedding.
        OptionError: a revision was given for something that has none.
    """
    text, commit = str(source), None
    path = Path(source).expanduser()
    is_hub = (
        not text.startswith(package.PREFIX) and not os.path.exists(path) and hub.is_hub_id(text)
    )
    if revision is not None and not is_hub:
        raise OptionError(
            f"a revision ({revision!r}) applies to a Hub id only, and {text} is not one."
        )
    if text.startswith(package.PREFIX):
        contents = package.read_package(text)
    elif is_hub:
        snapshot = hub.fetch(text, revision, progress)
        contents, commit = read_huggingface(snapshot.folder), snapshot.commit
    elif os.path.isdir(path):  # unlike Path's, also of names that no file could have
        contents = _read_folder(path)
    elif os.path.isfile(path):
        contents = _read_file(path)
    else:
        raise CheckpointError(
            f"there is no file or folder {text}, and it is no Hub id (owner/name) or package "
            f"({', '.join(package.PREFIX + name for name in package.PACKAGES)}) either."
        )
    raw = contents.vocabulary() if tokenizer is None else vocabulary_from_path(Path(tokenizer))
    return _assemble(text, "hub" if is_hub else contents.kind, commit, contents, raw, progress)


def _assemble(
    source: str,
    kind: str,
    commit: str | None,
    contents: Contents,
    raw: RawVocabulary | None,
    progress: Progress,
) -> Checkpoint:
    """Build the vocabulary, hash the files, and return the checkpoint."""
    if raw is None:
        raise CheckpointError(
            f"{source} has no tokenizer; pass --tokenizer with a folder that has tokenizer.json or "
            "vocab.json, or a .tiktoken file (openai-whisper, if installed, is used by itself)."
        )
    n_vocab = contents.config.get("vocab_size")
    if type(n_vocab) is not int or n_vocab < 1:
        raise UnsupportedModel(f"{source} has the vocab_size {n_vocab!r}, not a count of tokens.")
    vocabulary = build_vocabulary(raw.tokens, raw.named, n_vocab, raw.origin)
    files = hash_files([*contents.files, *raw.files], progress)
    if kind == "package":
        package.check_hash(source, files)
    return Checkpoint(
        origin=Origin(kind, source, commit, files, contents.licence),
        config=contents.config,
        generation_config=contents.generation_config,
        preprocessor_config=contents.preprocessor_config,
        vocabulary=vocabulary,
        tensors=LazyTensors(contents.tensors),
    )


def _read_folder(folder: Path) -> Contents:
    """A Hugging Face or CTranslate2 folder."""
    weights = [f for name, _ in WEIGHT_FILES for f in (name, f"{name}.index.json")]
    if (folder / "manifest.json").is_file() and (folder / "targets").is_dir():
        raise CheckpointError(f"{folder} is already a compiled artifact, not a checkpoint.")
    if (folder / "model.bin").is_file() and not any((folder / f).is_file() for f in weights):
        return read_ctranslate2(folder)
    if (folder / "config.json").is_file():
        return read_huggingface(folder)
    raise CheckpointError(
        f"{folder} is no checkpoint: it has no config.json (Hugging Face) and no model.bin "
        "(CTranslate2)."
    )


def _read_file(path: Path) -> Contents:
    """An OpenAI `.pt` or a whisper.cpp `.bin`."""
    try:
        ggml = is_ggml(path)
    except OSError as error:
        raise unreadable(path, error) from None
    if ggml:
        return read_ggml(path)
    if path.suffix == ".pt":
        return read_openai(path)
    raise CheckpointError(
        f"{path} is neither an OpenAI .pt nor a whisper.cpp .bin; "
        "for a Hugging Face or CTranslate2 model give its folder."
    )
