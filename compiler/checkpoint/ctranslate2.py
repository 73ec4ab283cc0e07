"""CTranslate2 folders, as faster-whisper uses them: model.bin, config.json, vocabulary.

model.bin, binary version 6 (CTranslate2 `python/ctranslate2/specs/model_spec.py`, `_serialize`):
u32 version, string spec name, u32 spec revision, u32 count, then per variable string name, u8
rank, u32 dims, u8 dtype, u32 bytes, data; at last u32 count of (alias, name). A string is a u16
length and that many bytes, the last of them 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from mwc.compiler.checkpoint.contents import Contents, named_files, whisper_config
from mwc.compiler.checkpoint.files import ByteSource, Cursor, read_optional_json
from mwc.compiler.checkpoint.lazy import STORED, LazyTensor, tensor_in_file
from mwc.compiler.checkpoint.names import from_ctranslate2
from mwc.compiler.checkpoint.vocabulary_files import vocabulary_from_folder
from mwc.runtime.errors import CheckpointError, UnsupportedModel

BINARY_VERSION = 6
DTYPES = {0: "float32", 1: "int8", 2: "int16", 3: "int32", 4: "float16", 5: "bfloat16"}
FLOATS = tuple(STORED)
ITEM_SIZES = {
    **{name: dtype.itemsize for name, dtype in STORED.items()}, "int8": 1, "int16": 2, "int32": 4
}  # fmt: skip

CONSTANTS = {"activation": (3, "GELU"), "pre_norm": (1, "on"), "scale_embeddings": (0, "off"),
             "alibi": (0, "off")}  # fmt: skip
"""What these variables of either stack must hold where they are there (3 is GELU in CTranslate2
`include/ctranslate2/ops/activation.h`)."""


LM_HEAD = "decoder/projection/weight"


@dataclass(frozen=True)
class _Variable:
    shape: tuple[int, ...]
    dtype: str
    offset: int


def read_ctranslate2(folder: Path) -> Contents:
    """Read a CTranslate2 folder.

    Raises:
        CheckpointError: model.bin is damaged or of another version.
        UnsupportedModel: it is no Whisper, or its weights are quantised.
    """
    path = folder / "model.bin"
    files = named_files([path, *(p for p in [folder / "config.json"] if p.is_file())], folder)
    return ctranslate2_contents(folder, ByteSource((path,)), files)


def ctranslate2_contents(
    folder: Path, model: ByteSource, files: tuple[tuple[str, ByteSource], ...]
) -> Contents:
    """The same with model.bin in one or several files that may lie elsewhere."""
    variables = _read_variables(model)
    integers = {
        name: _read_integer(model, variable)
        for name, variable in variables.items()
        if variable.dtype not in FLOATS and not variable.shape
    }
    _check_constants(integers, model.name)
    tensors = _tensors(variables, model)
    generation, config = _configs(read_optional_json(folder / "config.json"), integers, tensors)
    return Contents(
        kind="ctranslate2",
        config=config,
        generation_config=generation,
        preprocessor_config=read_optional_json(folder / "preprocessor_config.json"),
        tensors=tensors,
        vocabulary=partial(vocabulary_from_folder, folder),
        files=files,
    )


def _read_variables(model: ByteSource) -> dict[str, _Variable]:
    """Walk the file; every variable with its place."""
    cursor = Cursor(model)
    (version,) = cursor.numbers("I")
    if version != BINARY_VERSION:
        raise CheckpointError(
            f"{model.name} has CTranslate2 binary version {version}, mwc reads {BINARY_VERSION}; "
            "convert the model again with a current CTranslate2."
        )
    spec = _string(cursor)
    if spec != "WhisperSpec":
        raise UnsupportedModel(f"{model.name} is a CTranslate2 {spec!r}, not a WhisperSpec.")
    # The spec's revision says nothing more: what it changed shows in the variables' names.
    _, count = cursor.numbers("II")
    variables: dict[str, _Variable] = {}
    for _ in range(count):
        name = _string(cursor)
        (rank,) = cursor.numbers("B")
        shape = cursor.numbers(f"{rank}I")
        code, size = cursor.numbers("BI")
        dtype = DTYPES.get(code)
        if dtype is None or prod(shape) * ITEM_SIZES[dtype] != size:
            raise CheckpointError(
                f"{model.name} claims {size} bytes of type {code} for {name} {list(shape)}; "
                "it is damaged, fetch it again."
            )
        variables[name] = _Variable(shape, dtype, cursor.offset)
        cursor.offset += size
    if cursor.offset > model.size:
        raise CheckpointError(f"{model.name} is truncated; fetch it again.")
    return {**variables, **_aliases(cursor, variables)}


def _aliases(cursor: Cursor, variables: Mapping[str, _Variable]) -> dict[str, _Variable]:
    """Variables that equal another one, which CTranslate2 stores once (`_alias_variables`).

    The LM head is left out: it is the token embedding in every Whisper.
    """
    (count,) = cursor.numbers("I")
    pairs = [(_string(cursor), _string(cursor)) for _ in range(count)]
    lost = [name for _, name in pairs if name not in variables]
    if lost:
        raise CheckpointError(
            f"{cursor.source.name} names {lost[0]}, which it does not hold; fetch it again."
        )
    return {alias: variables[name] for alias, name in pairs if alias != LM_HEAD}


def _string(cursor: Cursor) -> str:
    (size,) = cursor.numbers("H")
    return cursor.take(size).rstrip(b"\0").decode("utf-8", "replace")


def _read_integer(model: ByteSource, variable: _Variable) -> int:
    data = model.read(variable.offset, ITEM_SIZES[variable.dtype])
    return int.from_bytes(data, "little", signed=True)


def _check_constants(integers: Mapping[str, int], name: str) -> None:
    """Refuse models whose flags say that they are built differently."""
    for stack in ("encoder", "decoder"):
        for flag, (value, word) in CONSTANTS.items():
            found = integers.get(f"{stack}/{flag}", value)
            if found != value:
                raise UnsupportedModel(
                    f"{name} has {stack}/{flag} = {found}; in a Whisper it is {value} ({word})."
                )


def _tensors(variables: Mapping[str, _Variable], model: ByteSource) -> dict[str, LazyTensor]:
    """Split fused projections by rows and give everything transformers' names."""
    tensors: dict[str, LazyTensor] = {}
    for name, variable in variables.items():
        if not variable.shape:
            continue
        if variable.dtype not in FLOATS:
            raise UnsupportedModel(
                f"{model.name} is quantised: {name} is {variable.dtype}; mwc reads float32, "
                "float16 and bfloat16, so convert the model again with --quantization float16."
            )
        parts = from_ctranslate2(name) or (name,)
        rows, rest = divmod(variable.shape[0], len(parts))
        if rest:
            raise CheckpointError(
                f"{model.name} has {variable.shape[0]} rows in {name}, which is no multiple of "
                f"the {len(parts)} projections in it."
            )
        shape = (rows, *variable.shape[1:])
        size = prod(shape) * ITEM_SIZES[variable.dtype]
        for i, part in enumerate(parts):
            # A key's bias adds the same to all scores of a query, so softmax cancels it.
            if not part.endswith("k_proj.bias"):
                offset = variable.offset + i * size
                tensors[part] = tensor_in_file(model, offset, shape, variable.dtype)
    return tensors


def _configs(
    stated: Mapping[str, Any], integers: Mapping[str, int], tensors: Mapping[str, LazyTensor]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """generation_config and config in transformers' form."""
    names = {
        "alignment_heads": "alignment_heads",
        "suppress_ids": "suppress_tokens",
        "suppress_ids_begin": "begin_suppress_tokens",
    }  # lang_ids is left out: CTranslate2 states it for English-only models too
    generation = {theirs: stated[ours] for ours, theirs in names.items() if ours in stated}

    def shape(name: str, rank: int) -> tuple[int, ...]:
        found = tensors[name].shape if name in tensors else ()
        if len(found) != rank:
            raise CheckpointError(f"model.bin holds no usable {name} to take dimensions from.")
        return found

    def layers(stack: str) -> int:
        prefix = f"{stack}.layers."
        found = {name.split(".")[2] for name in tensors if name.startswith(prefix)}
        return len(found)

    n_vocab, n_state = shape("decoder.embed_tokens.weight", 2)
    config = whisper_config(
        n_mels=shape("encoder.conv1.weight", 3)[1],
        n_vocab=n_vocab,
        n_state=shape("encoder.embed_positions.weight", 2)[1],
        n_text_state=n_state,
        audio=(
            shape("encoder.embed_positions.weight", 2)[0],
            integers.get("encoder/num_heads", 0),
            layers("encoder"),
        ),
        text=(
            shape("decoder.embed_positions.weight", 2)[0],
            integers.get("decoder/num_heads", 0),
            layers("decoder"),
        ),
        tensors=dict(tensors),
    )
    return generation, config
