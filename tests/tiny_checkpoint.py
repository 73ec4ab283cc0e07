"""Random Whisper checkpoints in every layout that mwc reads, for tests without real weights.

`write_tiny_checkpoint` is the entry point. The weights are random but scaled so that each layer
matters and greedy decoding varies: text, timestamps and, now and then, the end of the transcript.
"""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tiny_vocabulary import TinyVocabulary, tiny_vocabulary

Weights = dict[str, npt.NDArray[np.float32]]


def write_tiny_checkpoint(
    folder: Path,
    *,
    layout: str = "hf-safetensors",
    d_model: int = 128,
    heads: int = 2,
    encoder_layers: int = 2,
    decoder_layers: int = 2,
    n_mels: int = 80,
    vocab: str = "multilingual",
    seed: int = 0,
    dtype: str = "float32",
) -> Path:
    """Write a checkpoint and return what `open_checkpoint` takes: a folder or a file in it.

    Args:
        folder: where to write; made if missing.
        layout: "hf-safetensors", "hf-safetensors-sharded", "hf-bin", "hf-bin-sharded", "openai",
            "ct2" or "ggml".
        d_model: width of both stacks.
        heads: attention heads of both stacks; the head size should be 64.
        encoder_layers: encoder layers.
        decoder_layers: decoder layers.
        n_mels: mel bins, 80 or 128.
        vocab: "en", "multilingual" (99 languages) or "v3" (100 languages).
        seed: of the weights.
        dtype: "float32", "float16" or "bfloat16" ("ggml": the first two).
    """
    from tiny_layouts import LAYOUTS

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = tiny_vocabulary(vocab)
    config = tiny_config(vocabulary, d_model, heads, encoder_layers, decoder_layers, n_mels, dtype)
    weights = tiny_weights(config, vocabulary, seed)
    return LAYOUTS[layout](folder, config, vocabulary, weights, dtype)


def tiny_config(
    vocabulary: TinyVocabulary,
    d_model: int,
    heads: int,
    encoder_layers: int,
    decoder_layers: int,
    n_mels: int,
    dtype: str,
) -> dict[str, object]:
    """`config.json` as transformers writes it for Whisper."""
    special = vocabulary.special_tokens
    eot = special["<|endoftext|>"]
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "dtype": dtype,
        "activation_function": "gelu",
        "d_model": d_model,
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * d_model,
        "decoder_ffn_dim": 4 * d_model,
        "num_mel_bins": n_mels,
        "max_source_positions": 1500,
        "max_target_positions": 448,
        "vocab_size": vocabulary.n_vocab,
        "scale_embedding": False,
        "is_encoder_decoder": True,
        "bos_token_id": eot,
        "eos_token_id": eot,
        "pad_token_id": eot,
        "decoder_start_token_id": special["<|startoftranscript|>"],
    }


def tiny_generation_config(
    vocabulary: TinyVocabulary, heads: int, layers: int
) -> dict[str, object]:
    """`generation_config.json`, with alignment heads in the last layer."""
    special = vocabulary.special_tokens
    eot = special["<|endoftext|>"]
    result: dict[str, object] = {
        "alignment_heads": [[layers - 1, head] for head in range(heads)],
        "begin_suppress_tokens": [vocabulary.tokens.index("\u0120"), eot],
        "bos_token_id": eot,
        "decoder_start_token_id": special["<|startoftranscript|>"],
        "eos_token_id": eot,
        "pad_token_id": eot,
        "is_multilingual": vocabulary.is_multilingual,
        "max_initial_timestamp_index": 50,
        "max_length": 448,
        "no_timestamps_token_id": special["<|notimestamps|>"],
        "prev_sot_token_id": special["<|startofprev|>"],
        "return_timestamps": False,
        "suppress_tokens": suppressed_tokens(vocabulary),
    }
    if vocabulary.is_multilingual:
        result["lang_to_id"] = {f"<|{c}|>": special[f"<|{c}|>"] for c in vocabulary.languages}
        result["task_to_id"] = {
            "transcribe": special["<|transcribe|>"],
            "translate": special["<|translate|>"],
        }
    return result


def suppressed_tokens(vocabulary: TinyVocabulary) -> list[int]:
    """The non-speech symbols of this vocabulary and the special tokens openai/whisper adds."""
    space = "\u0120"
    symbols = '"#()*+/:;<=>@[\\]^_`{|}~'
    texts = [*symbols, *(space + s for s in symbols + "-'"), "\u00e2", space + "\u00e2"]
    names = ("startoftranscript", "translate", "transcribe", "startoflm", "startofprev", "nospeech")
    ids = {vocabulary.tokens.index(t) for t in texts}
    return sorted(ids | {vocabulary.special_tokens[f"<|{name}|>"] for name in names})


def tiny_preprocessor_config(n_mels: int) -> dict[str, object]:
    """`preprocessor_config.json` as transformers writes it."""
    return {
        "chunk_length": 30,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": n_mels,
        "hop_length": 160,
        "n_fft": 400,
        "n_samples": 480000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "processor_class": "WhisperProcessor",
        "return_attention_mask": False,
        "sampling_rate": 16000,
    }


def sinusoids(length: int, channels: int) -> npt.NDArray[np.float32]:
    """The encoder's fixed positions (openai/whisper `model.py`, `sinusoids`)."""
    scale = np.exp(-np.log(10000) / (channels // 2 - 1) * np.arange(channels // 2))
    angles = np.arange(length)[:, None] * scale[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def tiny_weights(config: dict[str, object], vocabulary: TinyVocabulary, seed: int) -> Weights:
    """Random weights by transformers' names (with the leading "model.")."""
    generator = np.random.default_rng(seed)
    d, n_mels = int(config["d_model"]), int(config["num_mel_bins"])  # type: ignore[call-overload]
    weights: Weights = {}

    def normal(shape: tuple[int, ...], std: float, mean: float = 0.0) -> npt.NDArray[np.float32]:
        return (mean + std * generator.standard_normal(shape)).astype(np.float32)

    def linear(name: str, rows: int, columns: int, gain: float = 1.0, bias: bool = True) -> None:
        weights[f"{name}.weight"] = normal((rows, columns), gain / columns**0.5)
        if bias:
            weights[f"{name}.bias"] = normal((rows,), 0.1)

    def norm(name: str, gain: float = 1.0) -> None:
        weights[f"{name}.weight"] = normal((d,), 0.1 * gain, gain)
        weights[f"{name}.bias"] = normal((d,), 0.1)

    def attention(name: str) -> None:
        linear(f"{name}.q_proj", d, d, gain=3.0)
        linear(f"{name}.k_proj", d, d, bias=False)
        linear(f"{name}.v_proj", d, d)
        linear(f"{name}.out_proj", d, d, gain=0.5)
        norm(f"{name}_layer_norm")

    for conv, channels in (("conv1", n_mels), ("conv2", d)):
        weights[f"model.encoder.{conv}.weight"] = normal(
            (d, channels, 3), 2 / (3 * channels) ** 0.5
        )
        weights[f"model.encoder.{conv}.bias"] = normal((d,), 0.1)
    weights["model.encoder.embed_positions.weight"] = sinusoids(1500, d)
    embeddings = normal((vocabulary.n_vocab, d), 2 * d**-0.5)
    embeddings[vocabulary.special_tokens["<|0.00|>"] :] *= 0.5
    embeddings[vocabulary.special_tokens["<|endoftext|>"]] *= 1.5
    weights["model.decoder.embed_tokens.weight"] = embeddings
    weights["model.decoder.embed_positions.weight"] = normal((448, d), 4 * d**-0.5)
    for stack in ("encoder", "decoder"):
        for i in range(int(config[f"{stack}_layers"])):  # type: ignore[call-overload]
            layer = f"model.{stack}.layers.{i}"
            attention(f"{layer}.self_attn")
            if stack == "decoder":
                attention(f"{layer}.encoder_attn")
            linear(f"{layer}.fc1", 4 * d, d)
            linear(f"{layer}.fc2", d, 4 * d, gain=2.0)
            norm(f"{layer}.final_layer_norm")
        norm(f"model.{stack}.layer_norm", gain=2.0 if stack == "decoder" else 1.0)
    return weights


def dump_json(path: Path, value: object) -> None:
    """Write one JSON file as transformers does."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
