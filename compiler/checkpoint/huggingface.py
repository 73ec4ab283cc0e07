"""Hugging Face folders: config files, and weights as safetensors or .bin, single or sharded."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from mwc.compiler.checkpoint.contents import Contents, named_files
from mwc.compiler.checkpoint.files import read_json, read_optional_json
from mwc.compiler.checkpoint.lazy import LazyTensor, tie_projection
from mwc.compiler.checkpoint.safetensors_file import read_safetensors
from mwc.compiler.checkpoint.torch_file import load_torch, state_dict_tensors
from mwc.compiler.checkpoint.vocabulary_files import vocabulary_from_folder
from mwc.runtime.errors import CheckpointError, UnsupportedModel

CONFIG_FILES = ("config.json", "generation_config.json", "preprocessor_config.json")
TOKENIZER_FILES = ("vocab.json", "tokenizer.json", "added_tokens.json", "tokenizer_config.json")
README = "README.md"
OTHER_FILES = ("processor_config.json", README)

Reader = Callable[[Path], dict[str, LazyTensor]]


def _read_bin(path: Path) -> dict[str, LazyTensor]:
    return state_dict_tensors(load_torch(path), path)


WEIGHT_FILES: tuple[tuple[str, Reader], ...] = (
    ("model.safetensors", read_safetensors),
    ("pytorch_model.bin", _read_bin),
)
"""In order of preference; where there is none of a name, `<name>.index.json` says its shards.

An index without its shards is what transformers leaves behind where it saves the whole over them.
"""


def read_huggingface(folder: Path) -> Contents:
    """Read a folder as `save_pretrained` writes it.

    Raises:
        CheckpointError: files are missing or damaged.
        UnsupportedModel: it is an adapter or a quantised model.
    """
    config = read_json(folder / "config.json")
    refuse_other_models(config, str(folder))
    names = (*CONFIG_FILES, README)
    read = [folder / name for name in names if (folder / name).is_file()]
    preprocessor = read_optional_json(folder / "preprocessor_config.json")
    if not preprocessor and (folder / "processor_config.json").is_file():
        read.append(folder / "processor_config.json")
        nested = read_json(folder / "processor_config.json").get("feature_extractor")
        preprocessor = nested if isinstance(nested, dict) else {}
    tensors, weight_files = _read_weights(folder)
    return Contents(
        kind="folder",
        config=config,
        generation_config=read_optional_json(folder / "generation_config.json"),
        preprocessor_config=preprocessor,
        tensors=tie_projection({name.removeprefix("model."): t for name, t in tensors.items()}),
        vocabulary=partial(vocabulary_from_folder, folder),
        files=named_files([*read, *weight_files], folder),
        licence=stated_licence(folder / README),
    )


def refuse_other_models(config: Mapping[str, Any], source: str) -> None:
    """Refuse what config.json alone tells to be no Whisper that mwc reads.

    Raises:
        UnsupportedModel: it is quantised, or another kind of model.
    """
    if method := config.get("quantization_config"):
        name = method.get("quant_method", method) if isinstance(method, dict) else method
        raise UnsupportedModel(
            f"{source} is quantised ({name}); give the checkpoint from before its quantisation."
        )
    kind = config.get("model_type")
    if kind != "whisper":
        raise UnsupportedModel(f"{source} is no Whisper: its config.json has model_type {kind!r}.")


def _read_weights(folder: Path) -> tuple[dict[str, LazyTensor], list[Path]]:
    """Return the tensors of the preferred weight files, and those files."""
    for name, reader in WEIGHT_FILES:
        if (folder / name).is_file():
            return reader(folder / name), [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _read_shards(index, reader)
    if (folder / "adapter_config.json").is_file():
        raise UnsupportedModel(
            f"{folder} holds a PEFT adapter, not a whole model; merge it into its base model "
            "(merge_and_unload) and save that."
        )
    names = " or ".join(name for name, _ in WEIGHT_FILES)
    raise CheckpointError(f"{folder} holds no weights; mwc looks for {names}, single or sharded.")


def shard_names(index: Path) -> dict[str, str]:
    """Return {tensor: file} of an index.

    Raises:
        CheckpointError: it has no weight map, or names a file outside its folder.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; fetch it again.")
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or PurePosixPath(file).name != file or file in ("", ".", ".."):
            raise CheckpointError(
                f"{index} places {tensor} in {file!r}; shards must lie beside their index."
            )
    return weight_map


def _read_shards(index: Path, reader: Reader) -> tuple[dict[str, LazyTensor], list[Path]]:
    """Read the shards of an index and check that they hold what it says."""
    weight_map = shard_names(index)
    paths = [index.parent / file for file in sorted(set(weight_map.values()))]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise CheckpointError(
            f"{index.parent} lacks {', '.join(absent)}, which {index.name} names."
        )
    tensors: dict[str, LazyTensor] = {}
    for path in paths:
        for name, tensor in reader(path).items():
            if weight_map.get(name, path.name) != path.name:
                raise CheckpointError(
                    f"{path} holds {name}, which {index.name} places in {weight_map[name]}."
                )
            tensors[name] = tensor
    lost = sorted(weight_map.keys() - tensors.keys())
    if lost:
        raise CheckpointError(f"{index} names {', '.join(lost[:5])}, but no shard holds it.")
    return tensors, [index, *paths]


def stated_licence(readme: Path) -> str | None:
    """The `license:` of a model card's front matter; None where there is none to be read."""
    try:
        text = readme.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:[ \t]*(\S+)[ \t]*$", front[1], re.MULTILINE) if front else None
    return found[1].strip("\"'") if found else None
