"""Adding a target to an artifact: with it or without it, never in between."""

import os
from pathlib import Path

import pytest
from small_artifact import MEF, target, write_small_artifact

from mwc.runtime import artifact_edit
from mwc.runtime.artifact import check_hashes, open_artifact
from mwc.runtime.artifact_edit import add_target
from mwc.runtime.disk import lock_folder
from mwc.runtime.errors import ArtifactError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_small_artifact(tmp_path / "out", extra={"parity.json": b"{}"})
    return tmp_path / "out"


@pytest.fixture
def mef(tmp_path: Path) -> Path:
    (tmp_path / "new.mef").write_bytes(b"newly compiled")
    return tmp_path / "new.mef"


def listing(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_added_target_stands_beside_the_first(folder: Path, mef: Path) -> None:
    before = open_artifact(folder).manifest
    added = add_target(folder, target("cpu-x86-64-v3"), mef)
    found = open_artifact(folder)
    assert found.manifest == added.manifest
    assert [each.name for each in found.manifest.targets] == ["cpu", "cpu-x86-64-v3"]
    assert found.manifest.targets[0] == before.targets[0]
    assert found.file(found.manifest.targets[1].mef).read_bytes() == b"newly compiled"
    assert set(before.files) < set(found.manifest.files)
    check_hashes(found)
    assert set(listing(folder)) == {"manifest.json", *(e.path for e in found.manifest.files)}


def test_a_target_that_is_there_needs_force(folder: Path, mef: Path) -> None:
    with pytest.raises(ArtifactError, match="already holds the target cpu; pass --force"):
        add_target(folder, target("cpu"), mef)
    for _ in range(2):  # the second time with the very same file
        add_target(folder, target("cpu"), mef, force=True)
        found = open_artifact(folder)
        check_hashes(found)
        assert found.file(found.manifest.targets[0].mef).read_bytes() == b"newly compiled"
        assert MEF not in listing(folder).values()
        assert len(found.manifest.targets) == 1


def test_a_target_whose_weights_are_not_there(folder: Path, mef: Path) -> None:
    before = listing(folder)
    with pytest.raises(ArtifactError, match=r"needs bf16 weights.*convert the checkpoint again"):
        add_target(folder, target("cuda-sm_90a", precision="bf16"), mef)
    assert listing(folder) == before
    assert not (folder / "targets/cuda-sm_90a").exists()


def test_an_interruption_leaves_the_artifact_as_it_was(
    folder: Path, mef: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(folder)

    def interrupted(source: Path, destination: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add_target(folder, target("other"), mef)
    with pytest.raises(KeyboardInterrupt):
        add_target(folder, target("cpu"), mef, force=True)
    assert listing(folder) == before
    check_hashes(open_artifact(folder))


def test_a_full_disk_leaves_the_artifact_as_it_was(
    folder: Path, mef: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(folder)

    def full(source: Path, destination: Path) -> None:
        destination.write_bytes(b"half")
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    monkeypatch.setattr(artifact_edit.shutil, "copyfile", full)
    with pytest.raises(ArtifactError, match=r"No room left .* bytes are free"):
        add_target(folder, target("other"), mef)
    assert listing(folder) == before


def test_one_process_at_a_time(folder: Path, mef: Path) -> None:
    lock = lock_folder(folder)
    with pytest.raises(ArtifactError, match="being changed by another process"):
        add_target(folder, target("other"), mef)
    os.close(lock)
    add_target(folder, target("other"), mef)


def test_another_max_version_or_a_missing_file(tmp_path: Path, mef: Path) -> None:
    write_small_artifact(tmp_path / "old", max_version="0.0.1")
    with pytest.raises(ArtifactError, match=r"compiled with MAX 0\.0\.1"):
        add_target(tmp_path / "old", target("other"), mef)
    write_small_artifact(tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"missing\.mef cannot be read"):
        add_target(tmp_path / "out", target("other"), tmp_path / "missing.mef")
    assert set(listing(tmp_path / "out")) == {
        "manifest.json",
        "targets/cpu/whisper.mef",
        "weights/f32.safetensors",
    }
