"""Fixtures shared by every test: where the speech corpus lies, and the compiled models."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the tests' own helpers: tiny_checkpoint, …


@pytest.fixture(scope="session")
def audio_dir() -> Path:
    """The speech corpus: MWC_TEST_AUDIO, else ../shared/audio beside the checkout, else skip."""
    folder = Path(os.environ.get("MWC_TEST_AUDIO") or ROOT.parent / "shared" / "audio")
    if not (folder / "manifest.tsv").is_file():
        pytest.skip(f"no speech corpus at {folder}; set MWC_TEST_AUDIO to a folder with one")
    return folder
