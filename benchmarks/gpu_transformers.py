"""transformers on the device that `gpu.py` measures, for windows of 30 s."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

from gpu_sections import Run, timed

from mwc.runtime.artifact import open_artifact
from mwc.runtime.spec import ModelSpec


def transformers(run: Run) -> dict[str, Any]:
    """transformers with random weights of the same sizes: windows of 30 s, as many tokens each.

    bfloat16 on a GPU, torch's scaled dot-product attention, greedy, from log-mel to tokens; medians
    of three, after one that does not count.
    """
    import torch

    cuda = run.device.startswith("gpu")
    place, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    finish = torch.cuda.synchronize if cuda else lambda: None
    found = {}
    for path in run.artifacts:
        dims = open_artifact(path).manifest.spec.model
        theirs = _their_model(dims, place, dtype)
        for rows in run.rows:
            batch = torch.randn(rows, dims.n_mels, 2 * dims.n_audio_ctx, device=place, dtype=dtype)

            def generate(n: int, batch: Any = batch, theirs: Any = theirs) -> None:
                with torch.inference_mode():
                    start = torch.full((len(batch), 1), 50258, device=place)
                    theirs.generate(
                        batch, decoder_input_ids=start, do_sample=False, num_beams=1,
                        min_new_tokens=n, max_new_tokens=n,
                    )  # fmt: skip

            generate(run.tokens)
            runs = [timed(partial(generate, run.tokens), finish) for _ in range(3)]
            seconds = median(runs)
            found[f"{path.name}, {rows} at a time"] = {
                "ms": round(1e3 * seconds, 1),
                "real-time factor": round(30 * rows / seconds, 1),
                "fastest to slowest": [round(1e3 * each, 1) for each in (min(runs), max(runs))],
            }
        del theirs, generate, batch
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
    return found


def _their_model(dims: ModelSpec, place: str, dtype: Any) -> Any:
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
