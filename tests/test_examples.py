"""The examples work, and stay short enough to read at a glance."""

import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import write_tiny_checkpoint

from mwc.runtime.artifact import open_artifact
from mwc.runtime.audio import read_samples

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
SAMPLE = ROOT / "compiler" / "data" / "sample.flac"
WORDS = ("compiler reads the whole model once", "speech into text in a few seconds")


def run_example(name: str, *arguments: object) -> str:
    line = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_explain_themselves(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    usage = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert usage.returncode == 1
    assert path.name in usage.stderr


def test_transcribe_file(tiny_en_artifact: Path) -> None:
    lines = run_example("transcribe_file.py", tiny_en_artifact, SAMPLE).splitlines()
    text = " ".join(lines)
    assert all(words in text for words in WORDS)
    times = [float(line.split()[0]) for line in lines]
    assert times == sorted(times)


def test_many_files(tiny_en_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "no.wav").write_bytes(b"no audio at all")
    lines = run_example(
        "many_files.py", tiny_en_artifact, SAMPLE, tmp_path / "no.wav", SAMPLE
    ).splitlines()
    first, second, third = lines
    assert first == third
    assert all(words in first for words in WORDS)
    assert "(skipped: " in second


@pytest.mark.parametrize(
    "name",
    ["transcribe_file.py", "many_files.py", "samples_from_memory.py", "convert_checkpoint.py"],
)
def test_what_is_not_there_is_told_in_a_sentence(name: str, tmp_path: Path) -> None:
    line = [sys.executable, str(EXAMPLES / name), str(tmp_path / "none"), str(SAMPLE)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_samples_from_memory(tiny_en_artifact: Path, tmp_path: Path) -> None:
    samples = read_samples(SAMPLE)
    path = tmp_path / "sample.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((samples * 32768).astype(np.int16).tobytes())
    text = run_example("samples_from_memory.py", tiny_en_artifact, path)
    assert text.startswith(f"{len(samples) / 16000:.1f} s: ")
    assert all(words in text for words in WORDS)


@pytest.mark.slow
def test_convert_checkpoint(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "checkpoint")
    out = tmp_path / "out"
    text = run_example("convert_checkpoint.py", source, out)
    assert text.splitlines()[-1] == f"wrote {out}"
    assert open_artifact(out).manifest.provenance.source == str(source)
