"""The command is tested without a model or a compiler; stand-ins take their places."""

from pathlib import Path

import pytest
from stand_ins import StandInCompiler, StandInModel

import mwc.compiler  # noqa: F401 - before anything is replaced: what it takes stays real


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> StandInModel:
    """What `load` gives, in place of a compiled model."""
    stand_in = StandInModel()
    monkeypatch.setattr("mwc.runtime.load", stand_in.load)
    monkeypatch.setattr("mwc.runtime.load_fleet", stand_in.load_fleet)
    monkeypatch.setattr("mwc.runtime.audio.open_audio", stand_in.open_audio)
    return stand_in


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A folder that looks like an artifact."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> StandInCompiler:
    """A compiler that only remembers."""
    stand_in = StandInCompiler()
    for name in ("convert", "add_target", "verify_artifact"):
        monkeypatch.setattr(f"mwc.compiler.{name}", getattr(stand_in, name))
    return stand_in
