"""The command with the real tiny.en: a compiled model, real speech, real files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mwc.cli.main import main

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLE = ROOT / "compiler" / "data" / "sample.flac"
TEXT = (
    "A compiler reads the whole model once, and writes down everything it will ever need. "
    "After that, a small program turns speech into text in a few seconds."
)

Captured = pytest.CaptureFixture[str]


def mwc(*arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the installed command in a process of its own."""
    line = [sys.executable, "-m", "mwc.cli.main", *map(str, arguments)]
    return subprocess.run(line, input=stdin, capture_output=True)


def test_text_on_stdout(tiny_en_artifact: Path) -> None:
    done = mwc("run", tiny_en_artifact, SAMPLE)
    assert done.returncode == 0, done.stderr
    assert " ".join(done.stdout.decode().split()) == TEXT
    assert b"times real time" in done.stderr


def test_standard_input_says_the_same(tiny_en_artifact: Path) -> None:
    done = mwc("run", tiny_en_artifact, "-", "--quiet", stdin=SAMPLE.read_bytes())
    assert done.returncode == 0, done.stderr
    assert " ".join(done.stdout.decode().split()) == TEXT
    assert done.stderr == b""


def test_the_demo(
    tiny_en_artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("mwc.cli.demo.artifact_for", lambda source, display: tiny_en_artifact)
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    lines = [line.partition("] ")[2] for line in out.splitlines() if line.startswith("[")]
    assert " ".join(lines) == TEXT
    assert f"mwc run {tiny_en_artifact} FILE" in out


def test_json_has_whispers_fields(tiny_en_artifact: Path, tmp_path: Path) -> None:
    line = ["run", str(tiny_en_artifact), str(SAMPLE), "-f", "json", "-o", str(tmp_path)]
    assert main(line) == 0
    result = json.loads((tmp_path / "sample.json").read_bytes())
    assert result["text"].strip() == TEXT
    assert result["language"] == "en"
    assert "".join(segment["text"] for segment in result["segments"]) == result["text"]
    first = result["segments"][0]
    assert (first["id"], first["seek"], first["temperature"]) == (0, 0, 0.0)
    assert 0 <= first["start"] < first["end"] <= 11
    assert first["avg_logprob"] > -0.6
    assert first["no_speech_prob"] < 0.6


def test_without_timestamps_is_one_segment(tiny_en_artifact: Path, capsys: Captured) -> None:
    assert main(["run", str(tiny_en_artifact), str(SAMPLE), "--without_timestamps", "True"]) == 0
    assert capsys.readouterr().out == f"{TEXT}\n"


def test_bad_files_among_good_ones(
    tiny_en_artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    empty, noise = tmp_path / "empty.wav", tmp_path / "noise.mp3"
    empty.touch()
    noise.write_bytes(bytes(range(256)) * 16)
    paths = [str(path) for path in (empty, SAMPLE, noise, tmp_path / "missing.wav")]
    assert main(["run", str(tiny_en_artifact), *paths, "-f", "json", "-q"]) == 3
    out, err = capsys.readouterr()
    assert [json.loads(line)["audio"] for line in out.splitlines()] == [str(SAMPLE)]
    assert len(err.splitlines()) == 3
    for line, name in zip(err.splitlines(), ("empty.wav", "noise.mp3", "missing.wav"), strict=True):
        assert line.startswith("mwc: ")
        assert name in line


def test_english_only_model_refuses_other_languages(
    tiny_en_artifact: Path, capsys: Captured
) -> None:
    assert main(["run", str(tiny_en_artifact), str(SAMPLE), "--language", "de"]) == 2
    assert "English only" in capsys.readouterr().err


def test_inspect(tiny_en_artifact: Path, capsys: Captured) -> None:
    assert main(["inspect", str(tiny_en_artifact), "--check"]) == 0
    text = capsys.readouterr().out
    assert "384" in text
    assert "every file has the hash" in text
    assert main(["inspect", str(tiny_en_artifact), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["spec"]["model"]["n_audio_state"] == 384


def test_a_run_needs_neither_torch_nor_the_compiler(tiny_en_artifact: Path) -> None:
    code = (
        "import sys; from mwc.cli.main import main; code = main(); "
        "print(*sorted(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    line = [sys.executable, "-c", code, "run", str(tiny_en_artifact), str(SAMPLE), "-q"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    assert "mwc.runtime.session" in loaded
    absent = {"torch", "transformers", "mwc.compiler", "huggingface_hub"}
    assert not loaded & absent
