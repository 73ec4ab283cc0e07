"""One adapter per engine: the same audio, language and greedy decoding for each.

If nothing else is asked for, every engine decodes at temperature 0 alone with one hypothesis,
gives each window the text before it as its prompt, and has openai/whisper's thresholds, which are
the defaults of all three. More is asked for by options under openai/whisper's names, which all
three share.
"""

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Audio = Path | npt.NDArray[np.float32]


Options = Mapping[str, Any]
"""Options of a transcription, by openai/whisper's names."""

GREEDY: Options = {"temperature": 0.0}
"""What every engine is asked for if nothing else is."""


@dataclass(frozen=True)
class Spoken:
    """A word: its text with spaces and punctuation, seconds."""

    word: str
    start: float
    end: float


@dataclass(frozen=True)
class Piece:
    """One segment: seconds, the frame its window starts at, text, tokens without eot.

    `temperature` and `avg_logprob` are of its window; `words` are there where they were asked for.
    """

    start: float
    end: float
    seek: int
    text: str
    tokens: tuple[int, ...]
    temperature: float = 0.0
    avg_logprob: float = 0.0
    words: tuple[Spoken, ...] = ()


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
        options: Options = GREEDY,
    ) -> Result:
        """Transcribe a file, or 16 kHz samples; call `heard` when the first text is there."""
        ...


class Mwc:
    """mwc; the weights are an artifact."""

    packages: tuple[str, ...] = ("mwc", "max", "numpy", "av")

    def __init__(self, batch_size: int = 1) -> None:
        """Choose how many windows are decoded together."""
        self.batch_size = batch_size

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
        options: Options = GREEDY,
    ) -> Result:
        """See `Engine.transcribe`."""
        pieces = []
        segments = self.model.stream(
            audio,
            language=language,
            without_timestamps=not timestamps,
            **{"batch_size": self.batch_size, **options},
        )
        for s in segments:
            heard()
            words = tuple(Spoken(w.word, w.start, w.end) for w in s.words or ())
            pieces.append(
                Piece(s.start, s.end, s.seek, s.text, s.tokens, s.temperature, s.avg_logprob, words)
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
        heads = whisper._ALIGNMENT_HEADS.get(official_name(self.model.dims))
        if heads is not None:  # it knows them by the names of its own downloads only
            self.model.set_alignment_heads(heads)

    def transcribe(
        self,
        audio: Audio,
        language: str,
        timestamps: bool,
        heard: Callable[[], None] = nothing,
        options: Options = GREEDY,
    ) -> Result:
        """See `Engine.transcribe`; the first text comes with all of it, samples are repeatable."""
        import torch

        torch.manual_seed(0)
        found = self.model.transcribe(
            str(audio) if isinstance(audio, Path) else audio,
            language=language,
            without_timestamps=not timestamps,
            fp16=False,
            **options,
        )
        heard()
        return Result(found["text"], tuple(map(their_piece, found["segments"])))

    def detect_language(self, samples: npt.NDArray[np.float32]) -> tuple[str, float]:
        """The likeliest language of the first 30 s, and its probability."""
        from whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, pad_or_trim

        mel = log_mel_spectrogram(samples, self.model.dims.n_mels, padding=N_SAMPLES)
        _, probabilities = self.model.detect_language(pad_or_trim(mel, N_FRAMES))
        language = max(probabilities, key=probabilities.get)
        return language, probabilities[language]


def official_name(dims: Any) -> str:
    """The name of openai/whisper's model with these dimensions; "" where several have them."""
    size = {4: "tiny", 6: "base", 12: "small", 24: "medium"}.get(dims.n_audio_layer, "")
    if not size or dims.n_text_layer != dims.n_audio_layer:
        return ""
    return size if dims.n_vocab > 51864 else f"{size}.en"


def their_piece(s: Mapping[str, Any]) -> Piece:
    """One of the segments that openai-whisper gives."""
    return Piece(
        s["start"], s["end"], s["seek"], s["text"], tuple(s["tokens"]), s["temperature"],
        s["avg_logprob"],
        tuple(Spoken(w["word"], float(w["start"]), float(w["end"])) for w in s.get("words", ())),
    )  # fmt: skip


class FasterWhisper:
    """faster-whisper with one compute type; the weights are a CTranslate2 folder."""

    packages: tuple[str, ...] = ("faster-whisper", "ctranslate2", "av")

    def __init__(self, compute_type: str, batch_size: int = 1) -> None:
        """Choose CTranslate2's arithmetic, "float32" or "int8", and its batched mode above 1."""
        self.compute_type = compute_type
        self.batch_size = batch_size

    def load(self, weights: Path, threads: int) -> None:
        """See `Engine.load`."""
        from faster_whisper import WhisperModel

        self.model: Any = WhisperModel(
            str(weights), device="cpu", compute_type=self.compute_type, cpu_threads=threads
        )
        if self.batch_size > 1:
            from faster_whisper import BatchedInferencePipeline

            self.model = BatchedInferencePipeline(self.model)

    def transcribe(
        self,
        audio: Audio,
        language: str,
        timestamps: bool,
        heard: Callable[[], None] = nothing,
        options: Options = GREEDY,
    ) -> Result:
        """See `Engine.transcribe`."""
        segments, _ = self.model.transcribe(
            str(audio) if isinstance(audio, Path) else audio,
            language=language,
            without_timestamps=not timestamps,
            **{"beam_size": 1, "best_of": 1, **options},
            **({"batch_size": self.batch_size} if self.batch_size > 1 else {}),
        )
        pieces = []
        for s in segments:
            heard()
            words = tuple(Spoken(w.word, w.start, w.end) for w in s.words or ())
            pieces.append(
                Piece(
                    s.start, s.end, s.seek, s.text, tuple(s.tokens), s.temperature, s.avg_logprob,
                    words,
                )
            )  # fmt: skip
        return Result("".join(piece.text for piece in pieces), tuple(pieces))


class Transformers:
    """transformers' Whisper in float32; the weights are a `.pt` file, read by mwc's compiler."""

    packages: tuple[str, ...] = ("transformers", "torch", "av")

    def load(self, weights: Path, threads: int) -> None:
        """See `Engine.load`."""
        import torch
        from token_parity import transformers_model
        from transformers import WhisperFeatureExtractor

        from mwc.compiler.checkpoint import open_checkpoint
        from mwc.compiler.config import read_spec

        torch.set_num_threads(threads)
        checkpoint = open_checkpoint(str(weights))
        self.spec = read_spec(checkpoint)[0]
        self.vocabulary = checkpoint.vocabulary.tokens
        self.model: Any = transformers_model(checkpoint, self.spec)
        self.features: Any = WhisperFeatureExtractor(feature_size=self.spec.model.n_mels)

    def transcribe(
        self,
        audio: Audio,
        language: str,
        timestamps: bool,
        heard: Callable[[], None] = nothing,
        options: Options = GREEDY,
    ) -> Result:
        """See `Engine.transcribe`; as its manual's example of long files, whole text at the end."""
        import torch

        from mwc.runtime.audio import read_samples

        asked = {"num_beams": options.get("beam_size", 1), "temperature": options["temperature"]}
        if self.spec.tokens.is_multilingual:
            asked |= {"language": language, "task": "transcribe"}
        samples = read_samples(audio) if isinstance(audio, Path) else audio
        long = len(samples) > self.spec.audio.n_samples
        if long:
            asked |= {
                "condition_on_prev_tokens": True,
                "compression_ratio_threshold": 1.35,
                "logprob_threshold": -1.0,
                "no_speech_threshold": 0.6,
            }
        whole = {"truncation": False, "padding": "longest", "return_attention_mask": True}
        inputs = self.features(
            samples, sampling_rate=self.spec.audio.sample_rate, return_tensors="pt",
            **(whole if long else {}),
        )  # fmt: skip
        with torch.inference_mode():
            ids = self.model.generate(**inputs, return_timestamps=timestamps or long, **asked)[0]
        tokens = tuple(int(i) for i in ids if int(i) < self.spec.tokens.eot)
        text = b"".join(self.vocabulary[i] for i in tokens).decode("utf-8", errors="replace")
        heard()
        return Result(text, (Piece(0.0, len(samples) / 16000, 0, text, tokens),))


class WhisperCpp:
    """whisper.cpp by pywhispercpp; the weights are a GGML file. It needs the ffmpeg command."""

    packages: tuple[str, ...] = ("pywhispercpp",)

    def load(self, weights: Path, threads: int) -> None:
        """See `Engine.load`."""
        from pywhispercpp.model import Model

        self.model: Any = Model(
            str(weights), n_threads=threads, redirect_whispercpp_logs_to=None, print_progress=False
        )

    def transcribe(
        self,
        audio: Audio,
        language: str,
        timestamps: bool,
        heard: Callable[[], None] = nothing,
        options: Options = GREEDY,
    ) -> Result:
        """See `Engine.transcribe`; greedy only, its tokens are not told."""
        if options != GREEDY:
            raise ValueError(f"whisper.cpp is asked for greedy decoding only, not {options}")
        found = self.model.transcribe(
            samples_by_ffmpeg(audio) if isinstance(audio, Path) else audio,
            new_segment_callback=lambda segment: heard(),
            language=language,
            no_timestamps=not timestamps,
            no_context=False,
            temperature=0.0,
            temperature_inc=0.0,
            greedy={"best_of": 1},
        )
        pieces = tuple(Piece(s.t0 / 100, s.t1 / 100, 0, s.text, ()) for s in found)
        return Result("".join(f" {piece.text.strip()}" for piece in pieces), pieces)


def samples_by_ffmpeg(audio: Path) -> npt.NDArray[np.float32]:
    """A file's samples, 16 kHz mono, float32 [n]: pywhispercpp refuses a WAV of another rate."""
    line = ["ffmpeg", "-loglevel", "error", "-nostdin", "-i", str(audio)]
    line += ["-f", "f32le", "-ac", "1", "-ar", "16000", "-"]
    return np.frombuffer(subprocess.run(line, check=True, capture_output=True).stdout, np.float32)


ENGINES: dict[str, Callable[[], Engine]] = {
    "mwc": Mwc,
    "mwc, batch 8": lambda: Mwc(8),
    "mwc int8": Mwc,
    "mwc int8, batch 8": lambda: Mwc(8),
    "openai-whisper": OpenaiWhisper,
    "transformers": Transformers,
    "whisper.cpp f16": WhisperCpp,
    "faster-whisper float32": lambda: FasterWhisper("float32"),
    "faster-whisper int8": lambda: FasterWhisper("int8"),
    "faster-whisper int8, batch 8": lambda: FasterWhisper("int8", 8),
}
"""Every engine, by the name it has in the results; mwc first, the one the others are held to."""
