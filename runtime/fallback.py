"""The temperature ladder: a window whose text looks wrong is decoded again, less greedily.

Beam search is for temperature 0, `best_of` for those above. Where no temperature gives plausible
text, the last one's stands.

Algorithm: openai/whisper `whisper/transcribe.py`, `decode_with_fallback`.
"""

from mwc.runtime.decode import WindowResult
from mwc.runtime.options import TranscribeOptions

LONG_SPEECH = 5.0
"""Seconds of detected speech from which the length of a window's text is looked at."""

SPARSE = 1.5
"""Tokens a second below which text leaves speech out: usual speech has four, and 2.6 was the least
of any window measured that left nothing out."""


def why_refused(result: WindowResult, options: TranscribeOptions) -> str | None:
    """Say why a window's text cannot stand, repetitive or improbable; None where it can.

    Text that is improbable in a window that is probably silent can stand: the window is skipped.
    """
    floor = options.logprob_threshold
    is_improbable = floor is not None and result.avg_logprob < floor
    ceiling = options.no_speech_threshold
    if ceiling is not None and result.no_speech_prob > ceiling and is_improbable:
        return None
    if is_improbable:
        return f"avg_logprob {result.avg_logprob:.2f} is below {floor:g}"
    limit = options.compression_ratio_threshold
    if limit is not None and result.compression_ratio > limit:
        return f"compression_ratio {result.compression_ratio:.2f} is above {limit:g}"
    return None


def why_sparse(n_tokens: int, seconds: float) -> str | None:
    """Say that a window has too few text tokens for the speech detected in it; None if not so.

    A model may give one sentence the times of many; no threshold of openai/whisper notices.
    """
    if seconds < LONG_SPEECH or n_tokens >= SPARSE * seconds:
        return None
    return f"{n_tokens} tokens of text for {seconds:.1f} s of detected speech"
