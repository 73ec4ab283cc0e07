"""A tiny random Whisper held in memory: spec and tensors, without files in between."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tiny_checkpoint import suppressed_tokens, tiny_config, tiny_weights
from tiny_vocabulary import tiny_vocabulary

from mwc.runtime.spec import AudioSpec, ModelSpec, TokenSpec, WhisperSpec


class MemoryTensors:
    """`Tensors` over a dictionary of float32 arrays."""

    def __init__(self, arrays: dict[str, npt.NDArray[np.float32]]) -> None:
        self._arrays = arrays
        self.shapes = {name: array.shape for name, array in arrays.items()}

    def read(self, name: str) -> npt.NDArray[np.float32]:
        return self._arrays[name]

    def changed(self, change) -> "MemoryTensors":
        """The same tensors, each passed through a function."""
        return MemoryTensors({name: change(array) for name, array in self._arrays.items()})


@dataclass(frozen=True)
class TinyModel:
    """What the references need of a checkpoint, and the spec that goes with it."""

    spec: WhisperSpec
    config: dict[str, object]
    tensors: MemoryTensors


def tiny_model(
    *, vocab: str = "multilingual", n_mels: int = 80, heads: int = 2, layers: int = 2, seed: int = 0
) -> TinyModel:
    vocabulary = tiny_vocabulary(vocab)
    d = 64 * heads
    config = tiny_config(vocabulary, d, heads, layers, layers, n_mels, "float32")
    weights = tiny_weights(config, vocabulary, seed)
    special = vocabulary.special_tokens
    tokens = TokenSpec(
        eot=special["<|endoftext|>"],
        sot=special["<|startoftranscript|>"],
        sot_prev=special["<|startofprev|>"],
        no_speech=special["<|nospeech|>"],
        no_timestamps=special["<|notimestamps|>"],
        timestamp_begin=special["<|0.00|>"],
        transcribe=special["<|transcribe|>"] if vocabulary.is_multilingual else None,
        translate=special["<|translate|>"] if vocabulary.is_multilingual else None,
        languages=tuple((code, special[f"<|{code}|>"]) for code in vocabulary.languages)
        if vocabulary.is_multilingual
        else (),
        suppress_tokens=tuple(suppressed_tokens(vocabulary)),
        begin_suppress_tokens=(vocabulary.tokens.index("\u0120"), special["<|endoftext|>"]),
        max_initial_timestamp_index=50,
        alignment_heads=tuple((layers - 1, head) for head in range(heads)),
        alignment_heads_derived=False,
    )
    model = ModelSpec(
        n_mels=n_mels,
        n_audio_ctx=1500,
        n_audio_state=d,
        n_audio_head=heads,
        n_audio_layer=layers,
        n_audio_mlp=4 * d,
        n_vocab=vocabulary.n_vocab,
        n_text_ctx=448,
        n_text_state=d,
        n_text_head=heads,
        n_text_layer=layers,
        n_text_mlp=4 * d,
    )
    tensors = MemoryTensors({name.removeprefix("model."): a for name, a in weights.items()})
    return TinyModel(WhisperSpec(model, AudioSpec(), tokens), config, tensors)


def speech_like(seconds: float = 6.0, seed: int = 0) -> npt.NDArray[np.float32]:
    """Noise that swells four times a second over a gliding tone: every mel bin moves."""
    t = np.arange(int(16000 * seconds)) / 16000
    noise = np.random.default_rng(seed).standard_normal(len(t))
    tone = np.sin(2 * np.pi * (200 * t + 150 * t**2))
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * t)
    return (swell * (0.05 * noise + 0.3 * tone)).astype(np.float32)
