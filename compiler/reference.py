"""What `verify` compares a compiled model with: the same checkpoint, run by somebody else's code.

Two implementations: `reference_torch`, transformers fed with the checkpoint's tensors, preferred
where it is installed; `reference_numpy`, the model written out in numpy, which is always there.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from mwc.runtime.spec import WhisperSpec

if TYPE_CHECKING:
    from mwc.compiler.checkpoint import Checkpoint

Float32 = npt.NDArray[np.float32]


class TensorSource(Protocol):
    """The part of `checkpoint.Tensors` that references read."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's shape, by Hugging Face's name without the leading "model."."""
        ...

    def read(self, name: str) -> Float32:
        """One tensor as float32, in Hugging Face's layout."""
        ...


class Reference(Protocol):
    """A Whisper that shares no code with mwc's graphs. It computes in float32."""

    @property
    def name(self) -> str:
        """What it is, for people: "transformers 5.23.0" or "numpy"."""
        ...

    def log_mel(self, samples: Float32) -> Float32:
        """Normalised log-mel of one window.

        float32 [480000] -> [3000, n_mels], clamped to 8 under the window's own maximum and scaled
        as openai/whisper `audio.py`, `log_mel_spectrogram` does.
        """
        ...

    def trace(self, log_mel: Float32) -> dict[str, Float32]:
        """Every stage of the encoder for normalised features [3000, n_mels].

        "conv": [1500, d], both convolutions and the positions, as it enters the first layer;
        "encoder.layers.0" and so on: [1500, d], the output of each layer;
        "encoder": [1500, d], the last layer's output after the final layer norm.
        """
        ...

    def cross_kv(self, encoder_out: Float32) -> list[tuple[Float32, Float32]]:
        """Keys and values [n_text_head, 1500, 64] of each decoder layer's cross-attention."""
        ...

    def logits(self, encoder_out: Float32, tokens: list[int]) -> Float32:
        """Teacher-forced logits [len(tokens), n_vocab]: row i follows tokens[: i + 1]."""
        ...


def open_reference(checkpoint: "Checkpoint", spec: WhisperSpec) -> Reference:
    """Return transformers over the checkpoint's tensors where it is installed, else numpy."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        from mwc.compiler.reference_numpy import NumpyReference

        return NumpyReference(checkpoint.tensors, spec)
    from mwc.compiler.reference_torch import TorchReference

    return TorchReference(checkpoint.config, checkpoint.tensors, spec)
