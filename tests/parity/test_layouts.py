"""The same weights in every layout of files give the same weight file, byte for byte."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import write_tiny_checkpoint
from tiny_layouts import LAYOUTS
from tiny_model import MemoryTensors

from mwc.compiler.checkpoint import Checkpoint, Tensors, open_checkpoint
from mwc.compiler.config import read_spec
from mwc.compiler.vocabulary import write_vocabulary
from mwc.compiler.weights import PRECISIONS, mapped_weights
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.weight_file import write_weights


def weight_file(checkpoint: Path, folder: Path, precision: str = "f32") -> str:
    """SHA-256 of the weight file that a conversion of the checkpoint writes."""
    opened = open_tiny(checkpoint)
    spec, _ = read_spec(opened)
    return written(opened.tensors, spec, precision, folder)


def open_tiny(checkpoint: Path) -> Checkpoint:
    """Open any layout; an openai/whisper file has its vocabulary beside it."""
    is_openai = checkpoint.suffix == ".pt"
    tokenizer = checkpoint.with_name("vocabulary.tiktoken") if is_openai else None
    return open_checkpoint(checkpoint, tokenizer=tokenizer)


def written(tensors: Tensors, spec: WhisperSpec, precision: str, folder: Path) -> str:
    """SHA-256 of the weight file made of these tensors."""
    path = folder / f"{precision}.safetensors"
    write_weights(path, mapped_weights(tensors, spec, precision))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """By dtype of the checkpoint and precision: what the plainest layout gives."""
    hashes = {}
    for dtype in ("float32", "float16", "bfloat16"):
        folder = tmp_path_factory.mktemp(dtype)
        checkpoint = write_tiny_checkpoint(folder / "checkpoint", dtype=dtype)
        for precision in PRECISIONS:
            hashes[dtype, precision] = weight_file(checkpoint, folder, precision)
    return hashes


CASES = [
    (layout, dtype)
    for layout in LAYOUTS
    for dtype in ("float32", "float16", "bfloat16")
    if layout != "ggml" or dtype == "float32"  # in half precision it keeps vectors as float32
]


@pytest.mark.parametrize(("layout", "dtype"), CASES)
def test_every_layout_gives_the_same_bytes(
    tmp_path: Path, expected: dict[tuple[str, str], str], layout: str, dtype: str
) -> None:
    if "bin" in layout or layout == "openai":
        pytest.importorskip("torch")
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", layout=layout, dtype=dtype)
    assert weight_file(checkpoint, tmp_path) == expected[dtype, "f32"]


def test_ggml_in_half_precision_keeps_vectors_and_positions(tmp_path: Path) -> None:
    full = open_tiny(write_tiny_checkpoint(tmp_path / "full"))
    arrays = {name: full.tensors.read(name) for name in full.tensors.shapes}
    halved = {
        name: array
        if array.ndim < 2 or "positions" in name
        else array.astype(np.float16).astype(np.float32)
        for name, array in arrays.items()
    }
    expected = written(MemoryTensors(halved), read_spec(full)[0], "f32", tmp_path)
    ggml = write_tiny_checkpoint(tmp_path / "ggml", layout="ggml", dtype="float16")
    assert weight_file(ggml, tmp_path) == expected


def test_dtypes_do_differ(expected: dict[tuple[str, str], str]) -> None:
    assert len({expected[dtype, "f32"] for dtype in ("float32", "float16", "bfloat16")}) == 3
    assert len({expected["float32", precision] for precision in PRECISIONS}) == len(PRECISIONS)


def test_vocabularies_are_the_same_in_every_layout(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    vocabularies = set()
    for layout in LAYOUTS:
        checkpoint = write_tiny_checkpoint(tmp_path / layout, layout=layout)
        folder = tmp_path / f"{layout}-tokenizer"
        folder.mkdir()
        write_vocabulary(open_tiny(checkpoint).vocabulary, folder)
        vocabularies.add(tuple(file.read_bytes() for file in sorted(folder.iterdir())))
    assert len(vocabularies) == 1
