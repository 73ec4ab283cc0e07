"""What the rows of a call sample by: options of a transcription, turned into what decoding needs.

Source: openai/whisper `whisper/decoding.py`, `DecodingOptions` and `DecodingTask._get_*`.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mwc.runtime.decoder import Float32
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.rules import suppress_mask
from mwc.runtime.search import GREEDY, Strategy
from mwc.runtime.spec import WhisperSpec


@dataclass(frozen=True)
class Sampling:
    """What holds for every row of a call.

    Attributes:
        suppress: float32 [2, n_vocab], from `rules.suppress_mask`.
        suppress_end: the same and eot, for a token at which no text may end.
        with_timestamps: whether the timestamp rules apply.
        max_initial_timestamp_index: highest first timestamp in 20 ms steps; None for no limit.
        sample_len: most tokens a row samples, eot included.
        strategy: how each window is searched.
    """

    suppress: Float32
    suppress_end: Float32
    with_timestamps: bool
    max_initial_timestamp_index: int | None
    sample_len: int
    strategy: Strategy = GREEDY


def sampling_for(spec: WhisperSpec, options: TranscribeOptions) -> Sampling:
    """Turn options into what every row of a transcription samples by.

    Raises:
        OptionError: `suppress_tokens` holds an id that is not in the vocabulary.
    """
    with_timestamps = not options.without_timestamps
    limit = None
    if options.max_initial_timestamp:
        # openai/whisper's quotient: a product with 50 rounds 0.47 s and others the other way.
        seconds_per_token = spec.audio.chunk_length / spec.model.n_audio_ctx
        limit = round(options.max_initial_timestamp / seconds_per_token)
    mask = (spec, options.suppress_tokens, options.suppress_blank, with_timestamps)
    return Sampling(
        suppress=_shared_mask(*mask),
        suppress_end=_shared_mask(*mask, may_end=False),
        with_timestamps=with_timestamps,
        max_initial_timestamp_index=limit,
        sample_len=options.sample_len or spec.model.n_text_ctx // 2,
        strategy=Strategy(
            temperature=options.temperature[0],
            beam_size=options.beam_size,
            best_of=options.best_of,
            patience=options.patience,
            length_penalty=options.length_penalty,
            seed=options.seed,
        ),
    )


@lru_cache(maxsize=16)
def _shared_mask(
    spec: WhisperSpec,
    suppress_tokens: tuple[int, ...],
    suppress_blank: bool,
    with_timestamps: bool,
    may_end: bool = True,
) -> Float32:
    """One array for all calls that suppress the same: their searches can share the decoder's."""
    mask = suppress_mask(spec, suppress_tokens, suppress_blank, with_timestamps)
    if not may_end:
        mask[:, spec.tokens.eot] = -np.inf
    return mask
