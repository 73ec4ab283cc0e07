"""What the benchmarks know about the corpus serves its tests too."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "benchmarks"))

from speech_corpus import Clip, read_corpus


@pytest.fixture(scope="session")
def clips(audio_dir: Path) -> list[Clip]:
    """Every recording of the corpus."""
    return read_corpus(audio_dir)
