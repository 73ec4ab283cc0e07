"""A checkpoint of any multilingual size of Whisper with random weights, as fast as real ones.

It is a CTranslate2 folder of float16, which mwc converts and CTranslate2 loads: the same weights
for both. One token is likely, whatever was heard, as some token is in speech: where all are about
as likely, what finds the best one has much more to do than it ever has.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compile_time import spec_of
from weights import ctranslate2_folder

from mwc.runtime.spec import ModelSpec

LIKELY = 2000
"""The token that is likely: an ordinary one."""
PEAK = 12.0
"""What its logit has that others have not: theirs have a standard deviation of about 0.5."""
CANTONESE = 50358
"""The token that the vocabulary of large-v3 has in addition."""


def write_random_checkpoint(size: str, folder: Path) -> Path:
    """Write a checkpoint of that size, once."""
    if (folder / "model.bin").is_file():
        return folder
    import torch
    from ctranslate2.converters.transformers import WhisperLoader

    spec = spec_of(size)
    torch.manual_seed(0)
    model = random_model(spec.model, "cpu", torch.float32)
    decoder = model.model.decoder
    with torch.no_grad():
        row = decoder.embed_tokens.weight[LIKELY]
        decoder.layer_norm.bias.copy_(row * PEAK / row.square().sum())
    theirs = WhisperLoader().get_model_spec(model)
    theirs.register_vocabulary(_vocabulary(spec.model.n_vocab))
    theirs.config.lang_ids = [number for _, number in spec.tokens.languages]
    theirs.config.alignment_heads = [list(head) for head in spec.tokens.alignment_heads]
    theirs.config.suppress_ids = []
    theirs.config.suppress_ids_begin = list(spec.tokens.begin_suppress_tokens)
    theirs.validate()
    theirs.optimize(quantization="float16")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    theirs.save(str(partial))
    return partial.rename(folder)


def _vocabulary(count: int) -> list[str]:
    """That of pkg:base, and the token that large-v3 has too."""
    text = (ctranslate2_folder("pkg:base") / "vocabulary.txt").read_text(encoding="utf-8")
    tokens = text.removesuffix("\n").split("\n")
    if count == len(tokens) + 1:
        tokens.insert(CANTONESE, "<|yue|>")
    return tokens


def random_model(dims: ModelSpec, place: str, dtype: Any) -> Any:
    """transformers' Whisper of the same sizes, weights as they are initialised."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    end = 50257
    config = WhisperConfig(
        vocab_size=dims.n_vocab,
        num_mel_bins=dims.n_mels,
        encoder_layers=dims.n_audio_layer,
        encoder_attention_heads=dims.n_audio_head,
        encoder_ffn_dim=dims.n_audio_mlp,
        decoder_layers=dims.n_text_layer,
        decoder_attention_heads=dims.n_text_head,
        decoder_ffn_dim=dims.n_text_mlp,
        d_model=dims.n_audio_state,
        max_source_positions=dims.n_audio_ctx,
        max_target_positions=dims.n_text_ctx,
        decoder_start_token_id=end + 1,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), end),
    )
    with torch.device(place), _default_dtype(dtype):
        model = WhisperForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    for name in ("suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids"):
        setattr(model.generation_config, name, None)
    return model.eval()


@contextmanager
def _default_dtype(dtype: Any) -> Iterator[None]:
    """What torch makes tensors of, for a while."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
