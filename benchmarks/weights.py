"""The same weights for every engine, made from the checkpoint that mwc converts.

A `pkg:` source is a CTranslate2 folder inside installed packages; its files are put together in a
folder that faster-whisper opens. The `.pt` file for openai-whisper and the GGML file for
whisper.cpp (matrices as float16) are written from the tensors.
"""

import hashlib
import importlib.util
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from mwc.compiler.checkpoint import Checkpoint
    from mwc.runtime.spec import ModelSpec

CACHE = Path(__file__).resolve().parent.parent / ".bench"
"""Where what is made here, and the artifacts, are kept between runs."""


def cache_of(source: str) -> Path:
    """The folder of what is made of a source: of a path too one inside CACHE."""
    name = source.removeprefix("pkg:")
    if re.fullmatch(r"[\w.-]+", name):
        return CACHE / name
    return CACHE / f"{Path(name).name}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@cache
def artifact_of(source: str, precision: str = "f32") -> Path:
    """Convert a checkpoint for this machine's CPU, anew in each run: the compiler may have changed.

    What has not changed comes from MAX's cache.
    """
    from mwc.compiler import ConvertOptions, convert

    name = "artifact" if precision == "f32" else f"artifact-{precision}"
    folder = cache_of(source) / name
    return convert(source, folder, ConvertOptions(precision=precision, force=True)).artifact


def openai_file(source: str) -> Path:
    """Write a checkpoint's tensors as openai-whisper's `.pt`, once."""
    path = cache_of(source) / "openai.pt"
    return path if path.is_file() else write_openai_file(source, path)


def write_openai_file(source: str, path: Path) -> Path:
    """Write a checkpoint's tensors as openai-whisper's `.pt`."""
    import torch

    from mwc.compiler.checkpoint import open_checkpoint
    from mwc.compiler.config import read_spec

    checkpoint = open_checkpoint(source)
    model = read_spec(checkpoint)[0].model
    state = {name: torch.from_numpy(values) for name, values in openai_tensors(checkpoint, model)}
    dims = {name: value for name, value in asdict(model).items() if not name.endswith("_mlp")}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({"dims": dims, "model_state_dict": state}, partial)
    partial.rename(path)
    return path


def ggml_file(source: str) -> Path:
    """Write a checkpoint as whisper.cpp's GGML file with float16 matrices, once."""
    path = cache_of(source) / "ggml.bin"
    return path if path.is_file() else write_ggml_file(source, path)


def write_ggml_file(source: str, path: Path) -> Path:
    """Write a checkpoint as ggml-org/whisper.cpp `models/convert-pt-to-ggml.py` does."""
    from whisper.audio import mel_filters

    from mwc.compiler.checkpoint import open_checkpoint
    from mwc.compiler.config import read_spec

    checkpoint = open_checkpoint(source)
    model = read_spec(checkpoint)[0].model
    dims = (
        model.n_vocab, model.n_audio_ctx, model.n_audio_state, model.n_audio_head,
        model.n_audio_layer, model.n_text_ctx, model.n_text_state, model.n_text_head,
        model.n_text_layer, model.n_mels, 1,
    )  # fmt: skip
    filters = mel_filters("cpu", model.n_mels).numpy().astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        file.write(struct.pack("<12i", 0x67676D6C, *dims))
        file.write(struct.pack("<ii", *filters.shape) + filters.tobytes())
        file.write(struct.pack("<i", len(checkpoint.vocabulary.tokens)))
        for token in checkpoint.vocabulary.tokens:
            file.write(struct.pack("<i", len(token)) + token)
        for name, values in openai_tensors(checkpoint, model):
            if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
                values = values[:, None]
            half = values.ndim > 1 and values.shape[-1] > 1 and "positional" not in name
            data = values.astype(np.float16 if half else np.float32)
            file.write(struct.pack("<iii", data.ndim, len(name), int(half)))
            file.write(struct.pack(f"<{data.ndim}i", *data.shape[::-1]) + name.encode())
            file.write(data.tobytes())
    partial.rename(path)
    return path


def openai_tensors(
    checkpoint: "Checkpoint", model: "ModelSpec"
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """A checkpoint's tensors by openai/whisper's names."""
    from mwc.compiler.checkpoint.names import OPENAI, from_openai

    layers = range(max(model.n_audio_layer, model.n_text_layer))
    names = {pattern.replace("{i}", str(i)) for pattern in OPENAI for i in layers}
    names |= {f"{name}.{parameter}" for name in names for parameter in ("weight", "bias")}
    theirs = {from_openai(name): name for name in names}
    for name in checkpoint.tensors.shapes:
        yield theirs[name], checkpoint.tensors.read(name)


def ctranslate2_folder(source: str) -> Path:
    """Put the files of a `pkg:` source together as one CTranslate2 folder, once."""
    from mwc.compiler.checkpoint.package import weight_package

    folder = cache_of(source) / "ctranslate2"
    if (folder / "model.bin").is_file():
        return folder
    parts = []
    for module, name in weight_package(source).parts:
        found = importlib.util.find_spec(module)
        if found is None or not found.submodule_search_locations:
            raise SystemExit(f"{source} is not installed; pip install 'mwc[bench]'")
        parts.append(Path(next(iter(found.submodule_search_locations))) / name)
    folder.mkdir(parents=True, exist_ok=True)
    for other in parts[0].parent.iterdir():
        if other.suffix in (".json", ".txt"):
            shutil.copyfile(other, folder / other.name)
    partial = folder / "model.partial"
    with open(partial, "wb") as model:
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, model)
    partial.rename(folder / "model.bin")
    return folder
