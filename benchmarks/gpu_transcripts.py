"""What `gpu.py` measures of whole transcripts: a `Run` in, JSON values out."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from gpu_sections import SEED, Run, timed
from machine import memory

from mwc.runtime import Model, Transcript, load
from mwc.runtime.audio import read_samples
from mwc.runtime.session import Session

WINDOW_SAMPLES = 480_000
"""Of 30 s."""

BATCHES = (3, 8, 16, 32)
"""Companies that a clip's transcript must not depend on."""


def windows(run: Run) -> dict[str, Any]:
    """Windows of 30 s from samples to text, so many at a time and so many tokens each."""
    found: dict[str, Any] = {}
    options = {"without_timestamps": True, "sample_len": run.tokens}
    for path in run.artifacts:
        model = load(path, device=run.device)
        samples = np.resize(read_samples(run.audio), WINDOW_SAMPLES)
        for rows in run.rows:
            many = partial(transcribe, model, [samples] * rows, rows, **options)
            transcripts = many()
            seconds = median(timed(many) for _ in range(3))
            with calls_timed(model.session) as calls:
                whole = timed(many)
            n_windows = sum(len(transcript.windows) for transcript in transcripts)
            tokens = sum(len(s.tokens) for transcript in transcripts for s in transcript.segments)
            found[f"{path.name}, {rows} at a time"] = {
                "ms": round(1e3 * seconds, 1),
                "real-time factor": round(30 * rows / seconds, 1),
                "windows": n_windows,
                "tokens a window": round(tokens / n_windows, 1),
                "texts": len({transcript.text for transcript in transcripts}),
                "one run, ms": round(1e3 * whole, 1),
                "of it in calls, ms": {name: call.told() for name, call in calls.items()},
            }
        refused = {str(k): g.refusal for k, g in model.session.device_graphs.items() if g.refusal}
        found[f"{path.name}, steps that are not replayed"] = refused
        del model, many
        gc.collect()
    return found


def company(run: Run) -> dict[str, Any]:
    """Clips in batches of many sizes, shuffled: transcripts unlike those in batches of two.

    Unlike in anything: texts, times, tokens or their log-probabilities.
    """
    model = load(run.artifacts[0], device=run.device)
    clips = [read_samples(path) for path in run.clips]
    seconds = sum(map(len, clips)) / 16_000
    alone = transcribe(model, clips, 2)
    found: dict[str, Any] = {"clips": len(clips), "seconds": round(seconds, 1)}
    for batch in BATCHES:
        order = np.random.default_rng(batch).permutation(len(clips))
        begin = time.perf_counter()
        together = transcribe(model, [clips[i] for i in order], batch)
        took = time.perf_counter() - begin
        differ = sum(a != alone[i] for a, i in zip(together, order, strict=True))
        found[f"batches of {batch}"] = {
            "transcripts that differ": differ,
            "real-time factor": round(seconds / took, 1),
        }
    return found


def soak(run: Run) -> dict[str, Any]:
    """Decode for a while in batches of all sizes: texts as alone, and memory that does not grow."""
    model = load(run.artifacts[0], device=run.device)
    clips = [read_samples(path) for path in run.clips or (run.audio,)]
    alone = [transcript.text for transcript in transcribe(model, clips, 2)]
    rng = np.random.default_rng(SEED)
    until = time.perf_counter() + run.soak_seconds
    done, other, memories = 0, 0, []
    while time.perf_counter() < until or len(memories) < 3:
        rows = int(rng.choice([1, *run.rows, *BATCHES])) + 1
        chosen = rng.integers(0, len(clips), int(rng.integers(1, 3 * rows + 1)))
        transcripts = transcribe(model, [clips[i] for i in chosen], rows)
        other += sum(t.text != alone[i] for t, i in zip(transcripts, chosen, strict=True))
        done += len(chosen)
        gc.collect()
        free = model.session.caller.device.stats.get("free_memory", 0)
        memories.append((round(memory("VmRSS")), int(free) >> 20))
    third = max(len(memories) // 3, 1)
    return {
        "clips": done,
        "seconds": run.soak_seconds,
        "texts unlike those in batches of two": other,
        "host MiB after a third, at the end": (memories[third - 1][0], memories[-1][0]),
        "free device MiB after a third, at the end": (memories[third - 1][1], memories[-1][1]),
    }


@dataclass
class Calls:
    """Calls of an entry point: how many, and how long they took all together."""

    n: int = 0
    seconds: float = 0.0

    def told(self) -> list[float]:
        """Milliseconds and number."""
        return [round(1e3 * self.seconds, 1), self.n]


@contextmanager
def calls_timed(session: Session) -> Iterator[dict[str, Calls]]:
    """What calls of a session's entry points take meanwhile, by name.

    A GPU goes on after `encode` returns: whoever asks it next waits for that too.
    """
    found = {name: Calls() for name in ("log_mel", "vad", "encode", "prefill", "steps", "step")}

    def timing(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed_call(*given: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                found[name].n += 1
                found[name].seconds += time.perf_counter() - begin

        return timed_call

    for name in found:
        setattr(session, name, timing(name, getattr(session, name)))
    try:
        yield found
    finally:
        for name in found:
            delattr(session, name)


def transcribe(
    model: Model, clips: Sequence[Any], at_a_time: int, **options: Any
) -> list[Transcript]:
    options = {"language": "en", "temperature": 0.0, **options}
    return list(model.transcribe_many(clips, batch_size=at_a_time, **options))
