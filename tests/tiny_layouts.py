"""The file layouts of `tiny_checkpoint`: Hugging Face, openai/whisper, CTranslate2, whisper.cpp."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tiny_checkpoint import (
    Weights,
    dump_json,
    sinusoids,
    tiny_generation_config,
    tiny_preprocessor_config,
)
from tiny_vocabulary import TinyVocabulary, token_bytes

Config = dict[str, object]
Writer = Callable[[Path, Config, TinyVocabulary, Weights, str], Path]


def to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The upper half of each float32, rounded to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def rounded(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.float32]:
    """What is left of float32 values after they were stored as dtype."""
    if dtype == "bfloat16":
        return (to_bfloat16(np.ascontiguousarray(values)).astype(np.uint32) << 16).view(np.float32)
    return values.astype(dtype).astype(np.float32)


def raw(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.generic]:
    """The stored form: float32, float16, or bfloat16 as uint16."""
    values = np.ascontiguousarray(values)
    return to_bfloat16(values) if dtype == "bfloat16" else values.astype(dtype)


# --- Hugging Face -------------------------------------------------------------------------------


def write_hf_files(folder: Path, config: Config, vocabulary: TinyVocabulary) -> None:
    """Everything of a Hugging Face folder but the weights."""
    text = {token: i for i, token in enumerate(vocabulary.tokens)}
    eot = vocabulary.special_tokens["<|endoftext|>"]
    dump_json(folder / "config.json", config)
    dump_json(
        folder / "generation_config.json",
        tiny_generation_config(
            vocabulary,
            int(str(config["decoder_attention_heads"])),
            int(str(config["decoder_layers"])),
        ),
    )
    dump_json(
        folder / "preprocessor_config.json",
        tiny_preprocessor_config(int(str(config["num_mel_bins"]))),
    )
    # As on the hub: eot is in vocab.json, the others in added_tokens.json.
    dump_json(folder / "vocab.json", text | {"<|endoftext|>": eot})
    added = {n: i for n, i in vocabulary.special_tokens.items() if i > eot}
    dump_json(folder / "added_tokens.json", added)
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(m) for m in vocabulary.merges) + "\n",
        encoding="utf-8",
    )
    dump_json(folder / "tokenizer.json", tokenizer_json(vocabulary))
    dump_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "WhisperTokenizer",
            "model_max_length": 448,
            "errors": "replace",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "add_prefix_space": False,
        },
    )


def tokenizer_json(vocabulary: TinyVocabulary) -> Config:
    """`tokenizer.json` of the tokenizers library."""
    eot = vocabulary.special_tokens["<|endoftext|>"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": name, **flags, "special": not name[2].isdigit()}
            for name, i in vocabulary.special_tokens.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {t: i for i, t in enumerate(vocabulary.tokens)} | {"<|endoftext|>": eot},
            "merges": [list(m) for m in vocabulary.merges],
        },
    }  # fmt: skip


def halves(weights: Weights) -> list[list[str]]:
    """The names in two shards."""
    names = sorted(weights)
    return [names[: len(names) // 2], names[len(names) // 2 :]]


SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def save_safetensors(path: Path, weights: Weights, dtype: str) -> None:
    """One safetensors file (https://github.com/huggingface/safetensors, "Format")."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    blobs, offset = [], 0
    for name, values in weights.items():
        blob = raw(values, dtype).tobytes()
        header[name] = {
            "dtype": SAFETENSORS_DTYPES[dtype],
            "shape": list(values.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def save_torch(path: Path, weights: Weights, dtype: str) -> None:
    """One file of `torch.save`."""
    import torch

    torch.save(
        {k: torch.from_numpy(v.copy()).to(getattr(torch, dtype)) for k, v in weights.items()}, path
    )


def hf_writer(
    save: Callable[[Path, Weights, str], None], stem: str, suffix: str, sharded: bool
) -> Writer:
    """A writer of one of the four Hugging Face layouts."""

    def write(
        folder: Path, config: Config, vocabulary: TinyVocabulary, weights: Weights, dtype: str
    ) -> Path:
        write_hf_files(folder, config, vocabulary)
        if not sharded:
            save(folder / f"{stem}.{suffix}", weights, dtype)
            return folder
        index: dict[str, str] = {}
        for i, names in enumerate(halves(weights), 1):
            file = f"{stem}-{i:05d}-of-00002.{suffix}"
            save(folder / file, {n: weights[n] for n in names}, dtype)
            index |= dict.fromkeys(names, file)
        dump_json(
            folder / f"{stem}.{suffix}.index.json",
            {"metadata": {"total_size": 0}, "weight_map": index},
        )
        return folder

    return write


# --- openai/whisper -----------------------------------------------------------------------------

OPENAI_PARTS = {
    "embed_tokens": "token_embedding",
    "encoder_attn": "cross_attn",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
    "k_proj": "key",
    "layers": "blocks",
    "out_proj": "out",
    "q_proj": "query",
    "self_attn": "attn",
    "self_attn_layer_norm": "attn_ln",
    "v_proj": "value",
}


def openai_name(name: str) -> str:
    """openai/whisper's name of a tensor (`model.py`)."""
    parts = name.split(".")[1:]
    if parts[1] == "embed_positions":
        return f"{parts[0]}.positional_embedding"
    if parts[1] == "layer_norm":
        parts[1] = {"encoder": "ln_post", "decoder": "ln"}[parts[0]]
    return ".".join(OPENAI_PARTS.get(part, part) for part in parts)


def write_openai(
    folder: Path, config: Config, vocabulary: TinyVocabulary, weights: Weights, dtype: str
) -> Path:
    """`tiny.pt` and, beside it, its vocabulary as `vocabulary.tiktoken`."""
    import torch

    d, heads = config["d_model"], config["encoder_attention_heads"]
    dims = {
        "n_mels": config["num_mel_bins"],
        "n_vocab": config["vocab_size"],
        "n_audio_ctx": 1500,
        "n_audio_state": d,
        "n_audio_head": heads,
        "n_audio_layer": config["encoder_layers"],
        "n_text_ctx": 448,
        "n_text_state": d,
        "n_text_head": heads,
        "n_text_layer": config["decoder_layers"],
    }
    state = {
        openai_name(k): torch.from_numpy(v.copy()).to(getattr(torch, dtype))
        for k, v in weights.items()
    }
    path = folder / "tiny.pt"
    torch.save({"dims": dims, "model_state_dict": state}, path)
    write_tiktoken(folder / "vocabulary.tiktoken", vocabulary)
    return path


def write_tiktoken(path: Path, vocabulary: TinyVocabulary) -> None:
    """The text tokens as openai/whisper stores them; it writes the empty token as "="."""
    import base64

    lines = [
        f"{base64.b64encode(token_bytes(token)).decode() or '='} {rank}"
        for rank, token in enumerate(vocabulary.tokens)
    ]
    path.write_text("\n".join(lines) + "\n")


# --- CTranslate2 --------------------------------------------------------------------------------

CT2_DTYPES = {"float32": 0, "float16": 4, "bfloat16": 5}


def ct2_variables(weights: Weights) -> Weights:
    """CTranslate2's variables (`converters/transformers.py`): fused projections, other names."""
    variables: Weights = {}

    def linear(name: str, *sources: str) -> None:
        rows = [weights[f"{s}.weight"] for s in sources]
        zeros = np.zeros(rows[0].shape[0], np.float32)
        variables[f"{name}/weight"] = np.concatenate(rows)
        variables[f"{name}/bias"] = np.concatenate(
            [weights.get(f"{s}.bias", zeros) for s in sources]
        )

    def norm(name: str, source: str) -> None:
        variables[f"{name}/gamma"] = weights[f"{source}.weight"]
        variables[f"{name}/beta"] = weights[f"{source}.bias"]

    for part in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"):
        variables[f"encoder/{part.replace('.', '/')}"] = weights[f"model.encoder.{part}"]
    variables["decoder/embeddings/weight"] = weights["model.decoder.embed_tokens.weight"]
    for stack in ("encoder", "decoder"):
        variables[f"{stack}/position_encodings/encodings"] = weights[
            f"model.{stack}.embed_positions.weight"
        ]
        norm(f"{stack}/layer_norm", f"model.{stack}.layer_norm")
        layers = {
            int(m[1]) for k in weights if (m := re.match(rf"model\.{stack}\.layers\.(\d+)", k))
        }
        for i in layers:
            ours, theirs = f"{stack}/layer_{i}", f"model.{stack}.layers.{i}"
            norm(f"{ours}/self_attention/layer_norm", f"{theirs}.self_attn_layer_norm")
            attn = f"{theirs}.self_attn"
            linear(f"{ours}/self_attention/linear_0", *(f"{attn}.{p}_proj" for p in "qkv"))
            linear(f"{ours}/self_attention/linear_1", f"{attn}.out_proj")
            if stack == "decoder":
                norm(f"{ours}/attention/layer_norm", f"{theirs}.encoder_attn_layer_norm")
                attn = f"{theirs}.encoder_attn"
                linear(f"{ours}/attention/linear_0", f"{attn}.q_proj")
                linear(f"{ours}/attention/linear_1", f"{attn}.k_proj", f"{attn}.v_proj")
                linear(f"{ours}/attention/linear_2", f"{attn}.out_proj")
            norm(f"{ours}/ffn/layer_norm", f"{theirs}.final_layer_norm")
            linear(f"{ours}/ffn/linear_0", f"{theirs}.fc1")
            linear(f"{ours}/ffn/linear_1", f"{theirs}.fc2")
    return variables


def write_ct2(
    folder: Path, config: Config, vocabulary: TinyVocabulary, weights: Weights, dtype: str
) -> Path:
    """A CTranslate2 folder: model.bin (binary version 6), config.json, tokenizer, vocabulary."""

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    def variable(name: str, shape: tuple[int, ...], type_id: int, data: bytes) -> bytes:
        dims = struct.pack(f"<B{len(shape)}I", len(shape), *shape)
        return string(name) + dims + struct.pack("<BI", type_id, len(data)) + data

    blobs = []
    aliases = {"decoder/projection/weight": "decoder/embeddings/weight"}
    stored: dict[tuple[tuple[int, ...], bytes], str] = {}
    for name, value in sorted(ct2_variables(weights).items()):
        data = raw(value, dtype).tobytes()
        first = stored.setdefault((value.shape, data), name)
        if first == name:
            blobs.append(variable(name, value.shape, CT2_DTYPES[dtype], data))
        else:
            aliases[name] = first
    heads = struct.pack("<h", int(str(config["encoder_attention_heads"])))
    for stack in ("encoder", "decoder"):
        blobs.append(variable(f"{stack}/num_heads", (), 2, heads))
        blobs.append(variable(f"{stack}/pre_norm", (), 1, b"\1"))
        blobs.append(variable(f"{stack}/activation", (), 1, b"\3"))
    head = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(blobs))
    tail = struct.pack("<I", len(aliases)) + b"".join(
        string(a) + string(b) for a, b in aliases.items()
    )
    (folder / "model.bin").write_bytes(head + b"".join(blobs) + tail)
    generation = tiny_generation_config(vocabulary, 2, int(str(config["decoder_layers"])))
    special = vocabulary.special_tokens
    dump_json(
        folder / "config.json",
        {
            "alignment_heads": generation["alignment_heads"],
            "lang_ids": [special[f"<|{c}|>"] for c in vocabulary.languages],
            "suppress_ids": generation["suppress_tokens"],
            "suppress_ids_begin": generation["begin_suppress_tokens"],
        },
    )
    dump_json(folder / "tokenizer.json", tokenizer_json(vocabulary))
    names = [*vocabulary.tokens, *special]
    (folder / "vocabulary.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return folder


# --- whisper.cpp --------------------------------------------------------------------------------


def write_ggml(
    folder: Path, config: Config, vocabulary: TinyVocabulary, weights: Weights, dtype: str
) -> Path:
    """`ggml-tiny.bin` (whisper.cpp `models/convert-pt-to-ggml.py`)."""
    d, heads, n_mels = config["d_model"], config["encoder_attention_heads"], config["num_mel_bins"]
    layers = (config["encoder_layers"], config["decoder_layers"])
    half = dtype == "float16"
    blob = struct.pack(
        "<12i", 0x67676D6C, config["vocab_size"], 1500, d, heads, layers[0], 448, d, heads,
        layers[1], n_mels, half,
    )  # fmt: skip
    filters = sinusoids(int(str(n_mels)), 402)[:, :201]  # mwc computes its own mel filters
    blob += struct.pack("<ii", *filters.shape) + np.ascontiguousarray(filters).tobytes()
    blob += struct.pack("<i", len(vocabulary.tokens))
    for token in vocabulary.tokens:
        data = token_bytes(token)
        blob += struct.pack("<i", len(data)) + data
    for key, values in weights.items():
        name = openai_name(key)
        stored = values[:, None] if name in ("encoder.conv1.bias", "encoder.conv2.bias") else values
        small = stored.ndim < 2 or stored.shape[-1] == 1 or "positional" in name
        data = stored.astype(np.float16 if half and not small else np.float32)
        blob += struct.pack("<iii", data.ndim, len(name), int(half and not small))
        blob += struct.pack(f"<{data.ndim}i", *data.shape[::-1]) + name.encode() + data.tobytes()
    path = folder / "ggml-tiny.bin"
    path.write_bytes(blob)
    return path


LAYOUTS: dict[str, Writer] = {
    "hf-safetensors": hf_writer(save_safetensors, "model", "safetensors", sharded=False),
    "hf-safetensors-sharded": hf_writer(save_safetensors, "model", "safetensors", sharded=True),
    "hf-bin": hf_writer(save_torch, "pytorch_model", "bin", sharded=False),
    "hf-bin-sharded": hf_writer(save_torch, "pytorch_model", "bin", sharded=True),
    "openai": write_openai,
    "ct2": write_ct2,
    "ggml": write_ggml,
}
