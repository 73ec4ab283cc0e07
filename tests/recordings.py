"""Recordings for a fake model: they differ, some fail, and what is said in them is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fake_decoder import FakeFeatures, FakeWindow, fake_spec

from mwc.runtime.decoder import Float32
from mwc.runtime.errors import AudioError
from mwc.runtime.many import HeardFile
from mwc.runtime.speech import Speech
from mwc.runtime.stop import Stop

SPEC = fake_spec()
T = SPEC.tokens


@dataclass(frozen=True)
class Recording(FakeFeatures):
    """A file that can be told from others by its windows, and may end too early when read again."""

    key: int = 0
    fails_from: int = 1 << 30

    @property
    def warnings(self) -> tuple[str, ...]:
        return (f"warned of {self.key}",)

    def window(
        self, seek: int, *, keep_from: int | None = None, into: Float32 | None = None
    ) -> Float32:
        if seek >= self.fails_from:
            raise AudioError(f"recording {self.key} gives less audio than at first")
        frames = super().window(seek, keep_from=keep_from, into=into)
        frames[0, 0] = self.key * 10_000 + seek
        return frames


def recording(key: int) -> Recording | None:
    """One of the recordings there are: up to 80 s; some fail; None cannot be opened."""
    rng = np.random.default_rng(key)
    if rng.random() < 1 / 16:
        return None
    n_frames = int(rng.choice([40, 300, 2000, 8000], p=[0.4, 0.3, 0.2, 0.1]))
    fails_from = int(rng.choice([0, n_frames // 3])) if rng.random() < 1 / 4 else 1 << 30
    return Recording(n_frames, SPEC.model.n_mels, key=key, fails_from=fails_from)


def hear(key: object, stop: Stop = lambda: False) -> HeardFile:
    """Reads a recording through; it is all speech but for a pause every five seconds."""
    features = recording(int(str(key)))
    if features is None:
        raise AudioError(f"recording {key} cannot be opened")
    probabilities = np.full(math.ceil(features.duration * 31.25), 0.99, np.float32)
    for second in range(5, math.ceil(features.duration), 5):
        probabilities[round(second * 31.25) : round((second + 0.5) * 31.25)] = 0.01
    given: Any = features
    return HeardFile(given, Speech("fake", probabilities, features.n_samples))


def said(window: FakeWindow) -> Sequence[int]:
    """A text that tells the window, as long as chance wants it."""
    text = f" {window.start}" * (1 + window.start % 7)
    return [T.timestamp_begin, *text.encode(), T.timestamp_begin + max(window.n_frames // 2, 1)]
