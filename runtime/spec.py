"""What a compiled Whisper is: its dimensions, audio constants, tokens and graph signatures.

The contract between the compiler, which writes it into an artifact's manifest, and the runtime,
which reads it from there. Frozen facts with a JSON round trip; nothing here computes or loads.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")


def exact_div(numerator: int, denominator: int) -> int:
    """Return numerator / denominator; a remainder is a bug in the constants (ValueError)."""
    if numerator % denominator:
        raise ValueError(f"{numerator} is not a multiple of {denominator}")
    return numerator // denominator


@dataclass(frozen=True)
class ModelSpec:
    """The dimensions of one Whisper (openai/whisper `model.py`, `ModelDimensions`).

    Attributes:
        n_mels: mel bins, 80 or 128.
        n_audio_ctx: encoder positions, 1500 (30 s at 20 ms).
        n_audio_state: encoder width.
        n_audio_head: encoder attention heads; the head size is always 64.
        n_audio_layer: encoder layers.
        n_audio_mlp: encoder feed-forward width.
        n_vocab: rows of the token embedding and of the LM head (they share one matrix).
        n_text_ctx: decoder positions, 448.
        n_text_state: decoder width; equals n_audio_state.
        n_text_head: decoder attention heads; the head size is always 64.
        n_text_layer: decoder layers.
        n_text_mlp: decoder feed-forward width.
    """

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_audio_mlp: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int
    n_text_mlp: int


SAMPLE_RATE = 16000
"""Samples per second, mono, that every Whisper hears (openai/whisper `audio.py`)."""

N_FFT = 400
"""Samples of a log-mel frame, a Hann window of 25 ms (openai/whisper `audio.py`)."""

HOP_LENGTH = 160
"""Samples from one log-mel frame to the next, 10 ms (openai/whisper `audio.py`)."""


@dataclass(frozen=True)
class AudioSpec:
    """How samples become log-mel frames (openai/whisper `audio.py`).

    Attributes:
        sample_rate: 16000 Hz, mono.
        n_fft: 400 samples, one 25 ms Hann window.
        hop_length: 160 samples, one frame every 10 ms.
        chunk_length: 30 s, one window.
        log_mel_max: where the maximum for the clamp (max - 8) is taken: "file", as openai/whisper's
            `transcribe` does, over the whole padded file.
        padding: what fills the last window after the audio's end: "log_mel_zero", as
            openai/whisper's `transcribe` does (normalised log-mel 0.0), not silent samples.
    """

    sample_rate: int = SAMPLE_RATE
    n_fft: int = N_FFT
    hop_length: int = HOP_LENGTH
    chunk_length: int = 30
    log_mel_max: str = "file"
    padding: str = "log_mel_zero"

    @property
    def n_samples(self) -> int:
        """480000 samples in a 30 s window."""
        return self.chunk_length * self.sample_rate

    @property
    def n_frames(self) -> int:
        """3000 log-mel frames in a 30 s window."""
        return exact_div(self.n_samples, self.hop_length)

    @property
    def frames_per_second(self) -> int:
        """100 frames: 10 ms per frame."""
        return exact_div(self.sample_rate, self.hop_length)

    @property
    def frames_per_token(self) -> int:
        """2 frames: the second convolution has stride 2."""
        return 2

    @property
    def tokens_per_second(self) -> int:
        """50 encoder positions: 20 ms per timestamp token."""
        return exact_div(self.frames_per_second, self.frames_per_token)


@dataclass(frozen=True)
class TokenSpec:
    """The special tokens and suppression lists, all taken from the checkpoint's files.

    Attributes:
        eot: `<|endoftext|>`, ends a transcript; ids below it are text.
        sot: `<|startoftranscript|>`.
        sot_prev: `<|startofprev|>`, opens the previous-text prompt.
        no_speech: `<|nospeech|>` (`<|nocaptions|>` in older files).
        no_timestamps: `<|notimestamps|>`.
        timestamp_begin: `<|0.00|>`; id timestamp_begin + k means k * 0.02 s. 1501 of them.
        transcribe: `<|transcribe|>`; None where the model has one task only (`.en`).
        translate: `<|translate|>`; None likewise.
        languages: (code, id) pairs in id order, for example ("en", 50259); empty for `.en`.
        suppress_tokens: ids never sampled (openai/whisper's "-1" set for this vocabulary).
        begin_suppress_tokens: ids not sampled first: blank and eot.
        max_initial_timestamp_index: the first timestamp is at most this many 20 ms steps, 50 = 1 s.
        alignment_heads: (layer, head) of the cross-attention heads that follow time.
        alignment_heads_derived: True where the checkpoint named none and they were derived
            (all heads of the last half of the decoder layers, as CTranslate2 does).
    """

    eot: int
    sot: int
    sot_prev: int
    no_speech: int
    no_timestamps: int
    timestamp_begin: int
    transcribe: int | None
    translate: int | None
    languages: tuple[tuple[str, int], ...]
    suppress_tokens: tuple[int, ...]
    begin_suppress_tokens: tuple[int, ...]
    max_initial_timestamp_index: int
    alignment_heads: tuple[tuple[int, int], ...]
    alignment_heads_derived: bool

    @property
    def is_multilingual(self) -> bool:
        """Whether the model has language and task tokens."""
        return bool(self.languages)


ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int32": 4, "int8": 1, "uint8": 1}
"""Bytes of one element, by dtype."""


@dataclass(frozen=True)
class TensorSpec:
    """One input, output or weight of a graph.

    Attributes:
        name: its name, as in the graph builder's docstring or the weight file.
        dtype: "float32", "bfloat16", "float16", "int32", "int8", "uint8".
        shape: sizes; a string is a symbolic size, free at each call ("batch", "tokens", …).
        mutable: whether the graph writes into it (a cache buffer owned by the session).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    mutable: bool = False


@dataclass(frozen=True)
class GraphSignature:
    """One entry point of a compiled target: ordered inputs and outputs, the weights it names."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[str, ...]


@dataclass(frozen=True)
class WhisperSpec:
    """Everything the runtime needs to know about the model itself."""

    model: ModelSpec
    audio: AudioSpec
    tokens: TokenSpec


def to_json(value: Any) -> Any:
    """Turn a spec dataclass into plain JSON values (dict, list, str, numbers)."""
    return dataclasses.asdict(value)


def from_json(cls: type[_T], data: Any) -> _T:
    """Build a spec dataclass from `to_json`'s output.

    Raises:
        ValueError: a field is missing or unknown; the message names it.
    """
    from typing import get_type_hints

    if not isinstance(data, dict):
        raise ValueError(f"{cls.__name__} must be an object, not {type(data).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}")
    missing = sorted(
        name for name, f in fields.items() if name not in data and f.default is dataclasses.MISSING
    )
    if missing:
        raise ValueError(f"{cls.__name__} lacks {', '.join(missing)}")
    hints = get_type_hints(cls)
    return cls(**{name: _convert(hints[name], value) for name, value in data.items()})


def _convert(hint: Any, value: Any) -> Any:
    """Convert JSON lists back to the (nested) tuples and dataclasses a field's type asks for."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value)
    if isinstance(value, list):
        args = getattr(hint, "__args__", ())
        item = args[0] if args else Any
        return tuple(_convert(item, v) for v in value)
    return value
