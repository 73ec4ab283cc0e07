"""A `Model` around a fake decoder: no artifact and no MAX needed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_decoder import FakeDecoder, fake_tokenizer

from mwc.runtime import model as model_module
from mwc.runtime.model import Model


def fake_model(
    folder: Path, decoder: FakeDecoder, monkeypatch: pytest.MonkeyPatch, lanes: int = 8
) -> Model:
    """A model whose session is `decoder`; its tokenizer is written into `folder`."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    fake_tokenizer(tokenizer, decoder.spec)
    monkeypatch.setattr(model_module, "Session", lambda artifact, **how: decoder)
    detector = SimpleNamespace(name="silero-vad", version="6.2")
    manifest = SimpleNamespace(spec=decoder.spec, detector=detector, files=())
    artifact: Any = SimpleNamespace(path=folder, manifest=manifest)
    return Model(artifact, device="auto", threads=None, lanes=lanes)
