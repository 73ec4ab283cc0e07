"""Decoding to the end: rows, windows, files; for tests that ask nothing in between."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from mwc.runtime.decode import DecodingBatch, RunningSearch, Task, WindowResult
from mwc.runtime.decoder import STEPS_AHEAD, Choice, Decoder, Float32, StepBatch
from mwc.runtime.engine import Engine
from mwc.runtime.features import Features
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.progress import Progress, silent
from mwc.runtime.rules import feed
from mwc.runtime.sampling import Sampling
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcribe import Transcription
from mwc.runtime.transcript import Transcript


def steps_one_by_one(
    decoder: Decoder, batch: StepBatch, suppress: Float32, n_steps: int = STEPS_AHEAD
) -> Choice:
    """What `Decoder.steps` gives, by `Decoder.step`."""
    choices = []
    for _ in range(n_steps):
        choices.append(decoder.step(batch, suppress))
        batch = feed(batch, choices[-1].tokens, decoder.spec.tokens.timestamp_begin)
    return Choice(
        np.stack([choice.tokens for choice in choices], axis=1),
        np.stack([choice.logprobs for choice in choices], axis=1),
    )


def decode_window(
    decoder: Decoder, tokenizer: Tokenizer, task: Task, sampling: Sampling
) -> WindowResult:
    """Decode one encoded window; `decode_windows` for one."""
    return decode_windows(decoder, tokenizer, [task], sampling)[0]


def decode_windows(
    decoder: Decoder, tokenizer: Tokenizer, tasks: Sequence[Task], sampling: Sampling
) -> list[WindowResult]:
    """Decode encoded windows together, as many at a time as there are row slots for."""
    width = sampling.strategy.width
    assert width <= decoder.n_rows
    batch = DecodingBatch(decoder)
    waiting = deque(tasks)
    searches: list[RunningSearch] = []
    free = list(range(decoder.n_rows))
    while waiting or batch.is_busy:
        while waiting and len(free) >= width:
            slots, free = free[:width], free[width:]
            searches.append(batch.start(waiting.popleft(), sampling, slots))
        for ended in batch.advance():
            free += ended.slots
    return [search.result(tokenizer) for search in searches]


def transcribe(
    engine: Engine, features: Features, options: TranscribeOptions, progress: Progress = silent
) -> Transcript:
    """Transcribe a file; arguments and errors as for `Transcription`."""
    transcription = Transcription(engine, features, options, progress=progress)
    for _ in transcription:
        pass
    return transcription.transcript()
