"""Opening an artifact: what was written comes back, and whatever does not fit is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_artifact import SPEC, TENSORS, provenance, target, write_small_artifact

from mwc.runtime import artifact as artifact_module
from mwc.runtime import load, load_fleet
from mwc.runtime import manifest as manifest_module
from mwc.runtime.artifact import (
    check_hashes,
    installed_max,
    map_weights,
    open_artifact,
    select_target,
)
from mwc.runtime.errors import ArtifactError, OptionError, TargetError
from mwc.runtime.manifest import FORMAT_REVISION, Manifest, manifest_text
from mwc.runtime.platform import FEATURES_OF_ARCH
from mwc.runtime.progress import ProgressEvent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_small_artifact(tmp_path / "out")
    return tmp_path / "out"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any], *, sign: bool = False) -> None:
    """Change manifest.json, with its own SHA-256 brought up to date if `sign`."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    if sign:
        data.pop("sha256")
        data["sha256"] = manifest_module._digest(data)
    path.write_text(json.dumps(data))


def test_what_was_written_comes_back(folder: Path) -> None:
    found = open_artifact(folder)
    assert found.manifest.spec == SPEC
    assert found.manifest.targets == (target(),)
    assert found.manifest.provenance == provenance()
    assert [file.path for file in found.manifest.files] == [
        "targets/cpu/whisper.mef",
        "weights/f32.safetensors",
    ]
    assert found.file("targets/cpu/whisper.mef").is_file()
    check_hashes(found)
    assert set(map_weights(found, "f32")) == set(TENSORS)


def test_a_moved_artifact_still_opens(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "elsewhere")
    check_hashes(open_artifact(tmp_path / "elsewhere"))


def test_what_is_not_there_or_not_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no artifact at .*mwc convert SOURCE"):
        open_artifact(tmp_path / "missing")
    with pytest.raises(ArtifactError, match=r"no manifest\.json; if it is a checkpoint"):
        open_artifact(tmp_path)
    (tmp_path / "file").write_text("{}")
    with pytest.raises(ArtifactError, match="is a file; an mwc artifact is a folder"):
        open_artifact(tmp_path / "file")
    for text in ("[]", "{}", '{"format": "other"}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ArtifactError, match="is not an mwc artifact"):
            open_artifact(tmp_path)


@pytest.mark.parametrize("value", [None, 3, b"out", ["out"]])
@pytest.mark.parametrize("read", [open_artifact, load, load_fleet])
def test_what_is_no_path(read: Callable[..., object], value: object) -> None:
    with pytest.raises(ArtifactError) as caught:
        read(value)
    assert str(caught.value).startswith(
        f"{value!r} is not a path; give the folder that mwc convert"
    )


def test_another_format_revision(folder: Path) -> None:
    newer = f"revision {FORMAT_REVISION + 1} and this mwc reads {FORMAT_REVISION}; .* a newer mwc"
    edit(folder, lambda data: data.update(revision=FORMAT_REVISION + 1), sign=True)
    with pytest.raises(ArtifactError, match=newer):
        open_artifact(folder)
    edit(folder, lambda data: data.update(revision=1), sign=True)
    with pytest.raises(ArtifactError, match=r"revision 1 .* convert its checkpoint again"):
        open_artifact(folder)


def test_another_max_version(tmp_path: Path) -> None:
    write_small_artifact(tmp_path / "out", max_version="1.2.3")
    with pytest.raises(ArtifactError, match=r"compiled with MAX 1\.2\.3 and .*max==1\.2\.3"):
        open_artifact(tmp_path / "out")
    assert open_artifact(tmp_path / "out", check_max=False).manifest.spec == SPEC


def test_no_max_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_module, "installed_max", lambda: None)
    with pytest.raises(ArtifactError, match="no MAX is installed"):
        open_artifact(folder)


def test_a_manifest_cut_anywhere_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match="cut short or damaged"):
            open_artifact(folder)


def test_no_altered_manifest_opens(folder: Path) -> None:
    """Flip the lowest bit of each of many bytes: the manifest is refused or means the same."""
    path = folder / "manifest.json"
    whole = path.read_bytes()
    sound = open_artifact(folder).manifest
    for index in range(0, len(whole), 41):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        try:
            found = open_artifact(folder).manifest
        except ArtifactError:
            continue
        assert found == sound


CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "escaping path": (lambda d: d["files"][0].update(path="../x"), "not a path of a file inside"),
    "absolute path": (lambda d: d["files"][0].update(path="/etc/passwd"), "not a path of a file"),
    "file twice": (lambda d: d["files"].append(d["files"][0]), "is listed twice"),
    "target twice": (lambda d: d["targets"].append(d["targets"][0]), "target cpu is listed twice"),
    "unlisted file": (lambda d: d["files"].pop(0), "is not among the files"),
    "no weights": (lambda d: d["targets"][0].update(precision="f16"), "needs f16 weights"),
    "no tensor": (
        lambda d: d["targets"][0]["graphs"][0].update(weights=["w9"]),
        "needs weights w9; none is here",
    ),
    "field missing": (lambda d: d.pop("provenance"), "Manifest lacks provenance"),
    "field unknown": (lambda d: d["spec"].update(x=1), "WhisperSpec has no field x"),
    "wrong type": (lambda d: d.update(targets=3), "wrong type"),
}


@pytest.mark.parametrize(("change", "why"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_manifest_that_contradicts_itself(
    folder: Path, change: Callable[[dict[str, Any]], Any], why: str
) -> None:
    edit(folder, lambda data: None)
    open_artifact(folder)  # rewriting alone does no harm
    edit(folder, change)
    with pytest.raises(ArtifactError, match="do not match its own SHA-256"):
        open_artifact(folder)
    edit(folder, lambda data: None, sign=True)
    with pytest.raises(ArtifactError, match=why):
        open_artifact(folder)


def test_every_missing_and_cut_file_is_named(folder: Path) -> None:
    (folder / "targets/cpu/whisper.mef").unlink()
    weights = folder / "weights/f32.safetensors"
    size = weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError) as caught:
        open_artifact(folder)
    assert "targets/cpu/whisper.mef is missing" in str(caught.value)
    assert f"weights/f32.safetensors has {size - 1} bytes instead of {size}" in str(caught.value)
    assert "convert someone/whisper-small again" in str(caught.value)


def test_a_flipped_bit_is_found_by_its_hash(folder: Path) -> None:
    weights = folder / "weights/f32.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    found = open_artifact(folder)
    check_hashes(found, paths=["targets/cpu/whisper.mef"])
    with pytest.raises(ArtifactError, match=r"is damaged: weights/f32\.safetensors does not have"):
        check_hashes(found)


def test_hashing_reports_bytes(folder: Path) -> None:
    events: list[ProgressEvent] = []
    found = open_artifact(folder)
    check_hashes(found, events.append)
    assert events[-1].done == events[-1].total == sum(e.size for e in found.manifest.files)


def test_a_file_or_precision_the_artifact_lacks(folder: Path) -> None:
    found = open_artifact(folder)
    assert not found.holds("parity.json")
    with pytest.raises(ArtifactError, match=r"holds no parity\.json"):
        found.file("parity.json")
    with pytest.raises(ArtifactError, match="holds no bf16 weights, only f32"):
        map_weights(found, "bf16")


def test_weights_that_do_not_fit_the_manifest(folder: Path) -> None:
    edit(
        folder,
        lambda d: d["weights"][0]["tensors"][0].update(shape=[5, 3], dtype="int32"),
        sign=True,
    )
    with pytest.raises(
        ArtifactError, match=r"encoder\.conv1\.weight is I32 \[5, 3\]: the file has F32"
    ):
        map_weights(open_artifact(folder), "f32")


BASE = target("cpu-x86-64-v3", arch="x86-64-v3", cpu_features=FEATURES_OF_ARCH["x86-64-v3"])
WIDE = target("cpu-x86-64-v4", arch="x86-64-v4", cpu_features=FEATURES_OF_ARCH["x86-64-v4"])
GPU = target("cuda-sm_90a", device="cuda", arch="sm_90a", cpu_model=None)


@pytest.fixture
def three_targets(tmp_path: Path) -> Path:
    write_small_artifact(tmp_path / "three", BASE, WIDE, GPU)
    return tmp_path / "three"


def on_a_cpu_with(monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...]) -> None:
    monkeypatch.setattr(artifact_module, "cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(artifact_module, "cpu_model", lambda: "Test CPU")


def test_the_target_that_uses_most_of_the_machine(
    three_targets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = open_artifact(three_targets)
    on_a_cpu_with(monkeypatch, WIDE.cpu_features)
    assert select_target(found) == WIDE
    assert select_target(found, "cpu") == WIDE
    assert select_target(found, "cpu-x86-64-v3") == BASE
    assert select_target(found, "auto", [("cuda", "sm_90a")]) == GPU
    assert select_target(found, "gpu", [("cuda", "sm_90a")]) == GPU
    assert select_target(found, "cpu", [("cuda", "sm_90a")]) == WIDE
    assert select_target(found, "auto", [("cuda", "sm_90")]) == GPU
    assert select_target(found, "auto", [("cuda", "sm_80")]) == WIDE
    assert select_target(found, "auto", [("hip", "sm_90a")]) == WIDE
    on_a_cpu_with(monkeypatch, BASE.cpu_features)
    assert select_target(found) == BASE


def test_a_cpu_that_lacks_features(three_targets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_cpu_with(monkeypatch, BASE.cpu_features)
    with pytest.raises(TargetError) as caught:
        select_target(open_artifact(three_targets), "cpu-x86-64-v4")
    text = str(caught.value)
    assert "needs avx512bw, avx512cd, avx512dq, avx512f, avx512vl, which Test CPU lacks" in text
    assert "--target cpu:x86-64-v3" in text
    assert "--add-target" in text


def test_no_gpu_or_another(three_targets: Path) -> None:
    found = open_artifact(three_targets)
    with pytest.raises(TargetError, match=r"needs a cuda sm_90a \(present: none\)"):
        select_target(found, "gpu")
    with pytest.raises(TargetError, match=r"needs a cuda sm_90a \(present: cuda sm_80\)"):
        select_target(found, "gpu", [("cuda", "sm_80")])
    with pytest.raises(TargetError, match=r"use --device cpu, which can, or convert with a target"):
        select_target(found, "gpu")


def test_a_device_the_artifact_has_nothing_for(folder: Path) -> None:
    with pytest.raises(TargetError, match="holds no gpu target, only cpu"):
        select_target(open_artifact(folder), "gpu")
    with pytest.raises(TargetError, match=r"use --device cpu, or add .* --add-target cuda:sm_90a"):
        select_target(open_artifact(folder), "gpu")
    with pytest.raises(
        OptionError, match="device is 'tpu'; it must be auto, cpu, gpu, or a target"
    ):
        select_target(open_artifact(folder), "tpu")


def test_the_manifest_text_does_not_depend_on_how_it_was_built(folder: Path) -> None:
    manifest = open_artifact(folder).manifest
    assert isinstance(manifest, Manifest)
    assert manifest_text(manifest) == (folder / "manifest.json").read_text()


def test_the_installed_max_is_the_pinned_one() -> None:
    version = installed_max()
    assert version is None or version[0].isdigit()
