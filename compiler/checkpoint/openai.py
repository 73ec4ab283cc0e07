"""OpenAI's own checkpoints: one `.pt` with {"dims", "model_state_dict"} and no tokenizer."""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

from mwc.compiler.checkpoint.contents import (
    Contents,
    RawVocabulary,
    named_files,
    whisper_config,
)
from mwc.compiler.checkpoint.lazy import tie_projection
from mwc.compiler.checkpoint.names import from_openai
from mwc.compiler.checkpoint.torch_file import load_torch, state_dict_tensors
from mwc.compiler.checkpoint.vocabulary_files import vocabulary_from_path
from mwc.runtime.errors import CheckpointError

DIMENSIONS = (
    "n_mels",
    "n_audio_ctx",
    "n_audio_state",
    "n_audio_head",
    "n_audio_layer",
    "n_vocab",
    "n_text_ctx",
    "n_text_state",
    "n_text_head",
    "n_text_layer",
)
"""openai/whisper `whisper/model.py`, `ModelDimensions`."""

MULTILINGUAL_VOCABULARY = 51865
"""openai/whisper `model.py`, `is_multilingual`: its rule, used only to pick one of its own two
vocabulary files."""


def read_openai(path: Path) -> Contents:
    """Read a `.pt` file; its vocabulary is an installed openai-whisper's.

    Raises:
        CheckpointError: it is damaged, or not in OpenAI's layout.
    """
    data = load_torch(path)
    if not isinstance(data, dict) or not {"dims", "model_state_dict"} <= data.keys():
        raise CheckpointError(
            f"{path} is a PyTorch file without dims and model_state_dict, so not OpenAI's layout; "
            "a Hugging Face .bin is read by giving its folder."
        )
    dims = _dimensions(data["dims"], path)
    tensors = tie_projection(
        {from_openai(n): t for n, t in state_dict_tensors(data["model_state_dict"], path).items()}
    )
    config = whisper_config(
        n_mels=dims["n_mels"],
        n_vocab=dims["n_vocab"],
        n_state=dims["n_audio_state"],
        n_text_state=dims["n_text_state"],
        audio=(dims["n_audio_ctx"], dims["n_audio_head"], dims["n_audio_layer"]),
        text=(dims["n_text_ctx"], dims["n_text_head"], dims["n_text_layer"]),
        tensors=tensors,
    )
    return Contents(
        kind="openai",
        config=config,
        generation_config={},
        preprocessor_config={},
        tensors=tensors,
        vocabulary=partial(_installed_vocabulary, dims["n_vocab"]),
        files=named_files([path], path.parent),
    )


def _dimensions(dims: Any, path: Path) -> dict[str, int]:
    """Check that all ten dimensions are there and are positive."""
    wrong = [
        name
        for name in DIMENSIONS
        if not isinstance(dims, dict) or type(dims.get(name)) is not int or dims[name] < 1
    ]
    if wrong:
        raise CheckpointError(f"{path} has dims without a valid {', '.join(wrong)}.")
    return {name: dims[name] for name in DIMENSIONS}


def _installed_vocabulary(n_vocab: int) -> RawVocabulary | None:
    """The vocabulary file of an installed openai-whisper, or None."""
    package = importlib.util.find_spec("whisper")
    name = "multilingual" if n_vocab >= MULTILINGUAL_VOCABULARY else "gpt2"
    for folder in (package.submodule_search_locations or ()) if package else ():
        path = Path(folder) / "assets" / f"{name}.tiktoken"
        if path.is_file():
            return vocabulary_from_path(path)
    return None
