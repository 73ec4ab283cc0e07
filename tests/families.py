"""Every Whisper family: its real dimensions, and a random model of the same build, scaled down."""

from dataclasses import dataclass, replace
from pathlib import Path

from tiny_checkpoint import write_tiny_checkpoint
from tiny_model import tiny_model

from mwc.runtime.spec import WhisperSpec


@dataclass(frozen=True)
class Family:
    """Dimensions as in openai/whisper's model card and the config.json of the others.

    Attributes:
        d_model: width of both stacks.
        encoder_layers: encoder layers.
        decoder_layers: decoder layers.
        n_mels: mel bins.
        vocab: "en", "multilingual" or "v3".
        small_layers: encoder and decoder layers of the scaled-down model.
    """

    d_model: int
    encoder_layers: int
    decoder_layers: int
    n_mels: int
    vocab: str
    small_layers: tuple[int, int]


FAMILIES = {
    "tiny": Family(384, 4, 4, 80, "multilingual", (2, 2)),
    "tiny.en": Family(384, 4, 4, 80, "en", (2, 2)),
    "base": Family(512, 6, 6, 80, "multilingual", (2, 2)),
    "small": Family(768, 12, 12, 80, "multilingual", (2, 2)),
    "medium": Family(1024, 24, 24, 80, "multilingual", (2, 2)),
    "large-v1": Family(1280, 32, 32, 80, "multilingual", (2, 2)),
    "large-v2": Family(1280, 32, 32, 80, "multilingual", (2, 2)),
    "large-v3": Family(1280, 32, 32, 128, "v3", (2, 2)),
    "large-v3-turbo": Family(1280, 32, 4, 128, "v3", (3, 1)),
    "distil-large-v2": Family(1280, 32, 2, 80, "multilingual", (3, 1)),
    "distil-large-v3": Family(1280, 32, 2, 128, "v3", (3, 1)),
    "distil-small.en": Family(768, 12, 4, 80, "en", (3, 1)),
}

IN_FLOAT16 = ("large-v3",)
"""Families whose scaled-down checkpoint is in float16, as they were published."""

N_VOCAB = {"en": 51864, "multilingual": 51865, "v3": 51866}
"""Rows of the real token embeddings."""


def real_spec(name: str) -> WhisperSpec:
    """The spec of a family at its real size; its token ids are those of the tiny vocabulary."""
    family = FAMILIES[name]
    small = tiny_model(vocab=family.vocab, n_mels=family.n_mels, heads=1, layers=1).spec
    state, heads, mlp = family.d_model, family.d_model // 64, 4 * family.d_model
    model = replace(
        small.model,
        n_audio_state=state,
        n_audio_head=heads,
        n_audio_layer=family.encoder_layers,
        n_audio_mlp=mlp,
        n_vocab=N_VOCAB[family.vocab],
        n_text_state=state,
        n_text_head=heads,
        n_text_layer=family.decoder_layers,
        n_text_mlp=mlp,
    )
    return replace(small, model=model)


def family_checkpoint(name: str, folder: Path) -> Path:
    """A random checkpoint of a family's build, scaled down."""
    family = FAMILIES[name]
    encoder_layers, decoder_layers = family.small_layers
    return write_tiny_checkpoint(
        folder,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        n_mels=family.n_mels,
        vocab=family.vocab,
        seed=list(FAMILIES).index(name),
        dtype="float16" if name in IN_FLOAT16 else "float32",
    )
