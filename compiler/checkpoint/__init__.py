"""Whisper checkpoints from anywhere, as one thing: configuration, vocabulary, tensors by name.

`open_checkpoint` takes a Hub id, a Hugging Face folder, an OpenAI `.pt`, a CTranslate2 folder, a
whisper.cpp `.bin` or an installed package (`pkg:tiny.en`); what comes back looks the same for all.
"""

from mwc.compiler.checkpoint.open import open_checkpoint
from mwc.compiler.checkpoint.types import Checkpoint, Origin, Tensors

__all__ = ["Checkpoint", "Origin", "Tensors", "open_checkpoint"]
