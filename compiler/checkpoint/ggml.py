"""whisper.cpp's files: dimensions, mel filters, vocabulary and tensors in one `.bin`.

Layout (ggml-org/whisper.cpp `models/convert-pt-to-ggml.py`): i32 magic 0x67676d6c, 11 i32
dimensions, mel filters (i32 rows, i32 columns, float32), i32 count of (i32 length, bytes) tokens,
then to the end per tensor i32 rank, i32 name length, i32 type, i32 dims innermost first, name,
data. Tensor names are openai/whisper's.
"""

import struct
from math import prod
from pathlib import Path

from mwc.compiler.checkpoint.contents import Contents, RawVocabulary, named_files, whisper_config
from mwc.compiler.checkpoint.files import ByteSource, Cursor
from mwc.compiler.checkpoint.lazy import STORED, LazyTensor, tensor_in_file
from mwc.compiler.checkpoint.names import from_openai
from mwc.compiler.vocabulary import EOT
from mwc.runtime.errors import CheckpointError, UnsupportedModel

MAGIC = 0x67676D6C
TYPES = {0: "float32", 1: "float16", 30: "bfloat16"}
"""ggml's type numbers (ggml `include/ggml.h`, `ggml_type`); all others are quantised."""

QUANTISED = {2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 10: "q2_K", 11: "q3_K",
             12: "q4_K", 13: "q5_K", 14: "q6_K"}  # fmt: skip

MAX_TOKEN = 1 << 16
MAX_RANK = 4


def is_ggml(path: Path) -> bool:
    """Whether a file begins with ggml's magic."""
    with path.open("rb") as file:
        return file.read(4) == struct.pack("<i", MAGIC)


def read_ggml(path: Path) -> Contents:
    """Read a whisper.cpp model.

    Raises:
        CheckpointError: it is truncated or damaged.
        UnsupportedModel: its weights are quantised.
    """
    source = ByteSource((path,))
    cursor = Cursor(source)
    cursor.take(4)  # the magic
    n_vocab, *audio, text_ctx, text_state, text_head, text_layer, n_mels, _ = cursor.numbers("11i")
    audio_ctx, n_state, audio_head, audio_layer = audio
    rows, columns = cursor.numbers("ii")
    cursor.offset += 4 * max(rows, 0) * max(columns, 0)  # mwc computes its own mel filters
    vocabulary = RawVocabulary(_tokens(cursor, path), {}, str(path))
    tensors: dict[str, LazyTensor] = {}
    while cursor.offset < source.size:
        name, tensor = _tensor(cursor, path)
        tensors[name] = tensor
    config = whisper_config(
        n_mels=n_mels,
        n_vocab=n_vocab,
        n_state=n_state,
        n_text_state=text_state,
        audio=(audio_ctx, audio_head, audio_layer),
        text=(text_ctx, text_head, text_layer),
        tensors=tensors,
    )
    return Contents(
        kind="ggml",
        config=config,
        generation_config={},
        preprocessor_config={},
        tensors=tensors,
        vocabulary=lambda: vocabulary,
        files=named_files([path], path.parent),
    )


def _tokens(cursor: Cursor, path: Path) -> tuple[bytes, ...]:
    """The text tokens; some converters list `<|endoftext|>` and more after them."""
    (count,) = cursor.numbers("i")
    tokens: list[bytes] = []
    for i in range(count):
        (size,) = cursor.numbers("i")
        if not 0 <= size <= MAX_TOKEN:
            raise CheckpointError(f"{path} claims {size} bytes for token {i}; it is damaged.")
        tokens.append(cursor.take(size))
    end = tokens.index(EOT.encode()) if EOT.encode() in tokens else len(tokens)
    return tuple(tokens[:end])


def _tensor(cursor: Cursor, path: Path) -> tuple[str, LazyTensor]:
    """The tensor at the cursor, by transformers' name; the cursor moves past its data."""
    rank, name_size, code = cursor.numbers("iii")
    if not (0 < rank <= MAX_RANK and 0 < name_size < 256):
        raise CheckpointError(f"{path} has no tensor at byte {cursor.offset - 12}; it is damaged.")
    shape = cursor.numbers(f"{rank}i")[::-1]
    name = cursor.take(name_size).decode("utf-8", "replace")
    if code not in TYPES:
        raise UnsupportedModel(
            f"{path} is quantised: {name} is {QUANTISED.get(code, f'of ggml type {code}')}; "
            "mwc reads float32, float16 and bfloat16, so give the model from before quantising."
        )
    if min(shape) < 1:
        raise CheckpointError(f"{path} gives {name} the shape {list(shape)}; it is damaged.")
    size = prod(shape) * STORED[TYPES[code]].itemsize
    if cursor.offset + size > cursor.source.size:
        raise CheckpointError(
            f"{path} ends inside {name}: {size} bytes are needed at {cursor.offset}, the file has "
            f"{cursor.source.size}; it is truncated, fetch it again."
        )
    hf_name = from_openai(name)
    if hf_name in ("encoder.conv1.bias", "encoder.conv2.bias"):  # stored as columns
        shape = shape[:1] if shape[1:] == (1,) else shape
    tensor = tensor_in_file(cursor.source, cursor.offset, shape, TYPES[code])
    cursor.offset += size
    return hf_name, tensor
