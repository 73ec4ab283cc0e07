"""One adapter per engine: the same audio, language and greedy decoding for each.

Every engine decodes at temperature 0 alone with one hypothesis, gives each window the text before
it as its prompt, and has openai/whisper's thresholds, which are the defaults of all three.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Audio = Path | npt.NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """One segment: seconds, the frame its window starts at, text, tokens without eot."""

    start: float
    end: float
    seek: int
    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """What an engine made of a file."""

    text: str
    pieces: tuple[Piece, ...]


def nothing() -> None:
    """Do nothing: for callers who do not ask when the first text is there."""


class Engine(Protocol):
    """An engine in a process. `load` once, then `transcribe` as often as you like."""

    packages: tuple[str, ...]
    """The distributions whose versions a result depends on."""

    def load(self, weights: Path, threads: int) -> None:
        """Import the engine and load the model."""
        ...

    def transcribe(
        self,
        audio: Audio,
        language: str,
        timestamps: bool,
        heard: Callable[[], None] = nothing,
    ) -> Result:
        """Transcribe a file, or 16 kHz samples; call `heard` when the first text is there."""
        ...


class Mwc:
    """mwc; the weights are an artifact."""

    packages: tuple[str, ...] = ("mwc", "max", "numpy", "av")

    def load(self, weights: Path, threads: int) -> None:
        """See `Engine.load`."""
        from mwc.runtime import load

        self.model = load(weights, threads=threads)

    def transcribe(
        self,
        audio: Audio,
        language: str,
        timestamps: bool,
        heard: Callable[[], None] = nothing,
    ) -> Result:
        """See `Engine.transcribe`."""
        pieces = []
        segments = self.model.stream(
            audio, language=language, temperature=0.0, without_timestamps=not timestamps
        )
        for segment in segments:
            heard()
            pieces.append(
                Piece(segment.start, segment.end, segment.seek, segment.text, segment.tokens)
            )
        return Result("".join(piece.text for piece in pieces), tuple(pieces))


class OpenaiWhisper:
    """openai-whisper in float32; the weights are a `.pt` file. It needs the ffmpeg command."""

    packages: tuple[str, ...] = ("openai-whisper", "torch")

    def load(self, weights: Path, threads: int) -> None:
        """See `Engine.load`."""
        import torch
        import whisper

        torch.set_num_threads(threads)
        self.model: Any = whisper.load_model(str(weights), device="cpu")

    def transcribe(
        self,
        audio: Audio,
        language: str,
        timestamps: bool,
        heard: Callable[[], None] = nothing,
    ) -> Result:
        """See `Engine.transcribe`; the first text comes with all of it."""
        found = self.model.transcribe(
            str(audio) if isinstance(audio, Path) else audio,
            language=language,
            temperature=0.0,
            without_timestamps=not timestamps,
            fp16=False,
        )
        heard()
        pieces = tuple(
            Piece(s["start"], s["end"], s["seek"], s["text"], tuple(s["tokens"]))
            for s in found["segments"]
        )
        return Result(found["text"], pieces)


class FasterWhisper:
    """faster-whisper with one compute type; the weights are a CTranslate2 folder."""

    packages: tuple[str, ...] = ("faster-whisper", "ctranslate2", "av")

    def __init__(self, compute_type: str) -> None:
        """Choose CTranslate2's arithmetic: "float32" or "int8"."""
        self.compute_type = compute_type

    def load(self, weights: Path, threads: int) -> None:
        """See `Engine.load`."""
        from faster_whisper import WhisperModel

        self.model: Any = WhisperModel(
            str(weights), device="cpu", compute_type=self.compute_type, cpu_threads=threads
        )

    def transcribe(
        self,
        audio: Audio,
        language: str,
        timestamps: bool,
        heard: Callable[[], None] = nothing,
    ) -> Result:
        """See `Engine.transcribe`."""
        segments, _ = self.model.transcribe(
            str(audio) if isinstance(audio, Path) else audio,
            language=language,
            beam_size=1,
            best_of=1,
            temperature=0.0,
            without_timestamps=not timestamps,
        )
        pieces = []
        for s in segments:
            heard()
            pieces.append(Piece(s.start, s.end, s.seek, s.text, tuple(s.tokens)))
        return Result("".join(piece.text for piece in pieces), tuple(pieces))


ENGINES: dict[str, Callable[[], Engine]] = {
    "mwc": Mwc,
    "openai-whisper": OpenaiWhisper,
    "faster-whisper float32": lambda: FasterWhisper("float32"),
    "faster-whisper int8": lambda: FasterWhisper("int8"),
}
"""Every engine, by the name it has in the results; mwc first, the one the others are held to."""
