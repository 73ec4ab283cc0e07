"""The temperature ladder: a window whose text looks wrong is decoded again, less greedily.

Algorithm: openai/whisper `whisper/transcribe.py`, `decode_with_fallback`.
"""

from dataclasses import replace

from mwc.runtime.decode import Sampling, Task, WindowResult, decode_window
from mwc.runtime.decoder import Decoder
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.tokenizer import Tokenizer


def decode_with_fallback(
    decoder: Decoder,
    tokenizer: Tokenizer,
    task: Task,
    sampling: Sampling,
    options: TranscribeOptions,
) -> WindowResult:
    """Decode an encoded window at each temperature in turn until the text is plausible.

    Beam search is for temperature 0, `best_of` for those above. Where no temperature gives
    plausible text, the last one's stands.
    """
    for temperature in options.temperature:
        strategy = replace(sampling.strategy, temperature=temperature)
        result = decode_window(decoder, tokenizer, task, replace(sampling, strategy=strategy))
        if is_plausible(result, options):
            break
    return result


def is_plausible(result: WindowResult, options: TranscribeOptions) -> bool:
    """Whether a window's text can stand: not repetitive, not improbable, or probably silence."""
    limit = options.compression_ratio_threshold
    is_repetitive = limit is not None and result.compression_ratio > limit
    floor = options.logprob_threshold
    is_improbable = floor is not None and result.avg_logprob < floor
    ceiling = options.no_speech_threshold
    is_silent = ceiling is not None and result.no_speech_prob > ceiling and is_improbable
    return is_silent or not (is_repetitive or is_improbable)
