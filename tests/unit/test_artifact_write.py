"""Writing an artifact: complete or not there at all, and nothing of the user's is lost."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_artifact import contents, fill, target, write_small_artifact

from mwc.runtime import artifact_write
from mwc.runtime.artifact import check_hashes, open_artifact
from mwc.runtime.artifact_write import ArtifactWriter
from mwc.runtime.errors import ArtifactError
from mwc.runtime.progress import ProgressEvent

TESTS = Path(__file__).resolve().parent.parent


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_partial_folder_is_a_hidden_sibling_that_does_not_load(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "out") as writer:
        weights = fill(writer, (target(),))
        assert writer.folder.parent == tmp_path
        assert writer.folder.name == ".out.partial"
        artifact = writer.preview(contents(weights))
        check_hashes(artifact)
        assert artifact.path == writer.folder
        with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
            open_artifact(writer.folder)
        assert names(tmp_path) == {writer.folder.name}
    assert names(tmp_path) == set()


def test_commit_publishes_and_leaves_nothing_else(tmp_path: Path) -> None:
    artifact = write_small_artifact(tmp_path / "out")
    assert names(tmp_path) == {"out"}
    assert open_artifact(tmp_path / "out").manifest == artifact.manifest
    assert artifact.path == tmp_path / "out"


def test_a_file_changed_after_the_preview_is_hashed_again(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    with ArtifactWriter(tmp_path / "out") as writer:
        parts = contents(fill(writer, (target(),)))
        writer.preview(parts)
        writer.path("parity.json").write_text("{}")
        writer.path("targets/cpu/whisper.mef").write_bytes(b"another one")
        writer.commit(parts, events.append)
    found = open_artifact(tmp_path / "out")
    assert found.holds("parity.json")
    check_hashes(found)
    assert events[-1].done == events[-1].total


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), ArtifactWriter(tmp_path / "a" / "b" / "out") as writer:  # noqa: PT012
        fill(writer, (target(),))
        raise error
    assert names(tmp_path) == set()


def test_an_interruption_while_publishing_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    old = write_small_artifact(out)
    rename = os.rename

    def interrupted(source: Path, destination: Path) -> None:
        if ".partial" in str(source):
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(artifact_write.os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_small_artifact(out, force=True, extra={"parity.json": b"{}"})
    assert names(tmp_path) == {"out"}
    assert open_artifact(out).manifest == old.manifest


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with ArtifactWriter(tmp_path / "out") as writer:
            writer.path("x").symlink_to("/dev/full")
            with open(writer.path("x"), "wb", buffering=0) as file:
                file.write(b"x")

    with pytest.raises(
        ArtifactError, match=r"No room left to write .*out: \d+ bytes are free"
    ) as e:
        write()
    assert isinstance(e.value.__cause__, OSError)
    assert names(tmp_path) == set()


def test_what_is_there_is_not_replaced_without_force(tmp_path: Path) -> None:
    write_small_artifact(tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"already exists; .* --force"):
        write_small_artifact(tmp_path / "out")
    check_hashes(open_artifact(tmp_path / "out"))


def test_force_replaces_an_artifact(tmp_path: Path) -> None:
    write_small_artifact(tmp_path / "out")
    write_small_artifact(tmp_path / "out", force=True, extra={"parity.json": b"{}"})
    assert open_artifact(tmp_path / "out").holds("parity.json")
    assert names(tmp_path) == {"out"}


def test_force_replaces_a_damaged_artifact(tmp_path: Path) -> None:
    write_small_artifact(tmp_path / "out", max_version="0.0.1")
    (tmp_path / "out/targets/cpu/whisper.mef").unlink()
    write_small_artifact(tmp_path / "out", force=True)
    check_hashes(open_artifact(tmp_path / "out"))


def test_force_does_not_replace_what_is_not_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="not an mwc artifact, so --force does not replace it"):
        write_small_artifact(tmp_path / "out", force=True)
    assert (tmp_path / "out/thesis.txt").read_text() == "years of work"
    with pytest.raises(ArtifactError, match="not an mwc artifact"):
        write_small_artifact(tmp_path / "out/thesis.txt", force=True)


def test_force_does_not_take_other_files_away(tmp_path: Path) -> None:
    write_small_artifact(tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"not part of the artifact \(notes\.txt\)"):
        write_small_artifact(tmp_path / "out", force=True)
    assert (tmp_path / "out/notes.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_small_artifact(tmp_path / "out")
    open_artifact(tmp_path / "out")


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    write_small_artifact(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_small_artifact(tmp_path / "link", force=True, extra={"parity.json": b"{}"})
    assert (tmp_path / "link").is_symlink()
    assert open_artifact(tmp_path / "real").holds("parity.json")


def test_something_put_there_meanwhile_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ArtifactError, match="already exists"), ArtifactWriter(out) as writer:  # noqa: PT012
        weights = fill(writer, (target(),))
        out.mkdir()
        (out / "x").write_text("x")
        writer.commit(contents(weights))
    assert names(tmp_path) == {"out"}
    assert names(out) == {"x"}


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "out") as writer:
        weights = fill(writer, (target(),))
        with pytest.raises(ValueError, match=r"targets/other/whisper\.mef is not among the files"):
            writer.commit(contents(weights, target("other")))
    assert names(tmp_path) == set()


def test_two_writers_of_one_artifact(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "out") as writer:
        fill(writer, (target(),))
        with (
            pytest.raises(ArtifactError, match="already being written by another conversion"),
            ArtifactWriter(tmp_path / "out"),
        ):
            raise AssertionError("the second writer was let in")
        assert writer.path("weights/f32.safetensors").is_file()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot be written: .*choose another folder"):
        write_small_artifact(tmp_path / "file" / "out")


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from mwc.runtime.artifact_write import ArtifactWriter
with ArtifactWriter(Path(sys.argv[1])) as writer:
    writer.path("weights/f32.safetensors").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def start_writer(out: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(out), str(TESTS)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_ctrl_c_in_a_process_leaves_nothing(tmp_path: Path) -> None:
    with start_writer(tmp_path / "out") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) != 0
    assert names(tmp_path) == set()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    with start_writer(tmp_path / "out") as killed:
        killed.kill()
        killed.wait(timeout=30)
    assert names(tmp_path) == {".out.partial"}
    with ArtifactWriter(tmp_path / "out") as writer:
        assert names(writer.folder) == set()
        fill(writer, (target(),))
    assert names(tmp_path) == set()


def test_a_second_process_is_refused_before_it_does_anything(tmp_path: Path) -> None:
    with start_writer(tmp_path / "out") as live:
        with (
            pytest.raises(ArtifactError, match="already being written by another conversion"),
            ArtifactWriter(tmp_path / "out", force=True),
        ):
            raise AssertionError("the second writer was let in")
        assert names(tmp_path) == {".out.partial"}
        assert names(tmp_path / ".out.partial") == {"weights"}
        live.kill()
        live.wait(timeout=30)
    write_small_artifact(tmp_path / "out")
    assert names(tmp_path) == {"out"}


def test_many_writers_at_once_make_one_artifact_each_time(tmp_path: Path) -> None:
    """Claims, discards and publishing, in each other's way: every writer is let in or refused."""

    def write(_: int) -> str:
        try:
            write_small_artifact(tmp_path / "out")
        except ArtifactError as error:
            return str(error)
        return "written"

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(write, range(40)))
    assert said.count("written") == 1
    assert all("already" in text for text in said if text != "written")
    assert names(tmp_path) == {"out"}
    open_artifact(tmp_path / "out")


def test_what_was_about_to_be_replaced_is_put_back(tmp_path: Path) -> None:
    old = write_small_artifact(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.replaced")
    with pytest.raises(ArtifactError, match="already exists"):
        write_small_artifact(tmp_path / "out")
    assert names(tmp_path) == {"out"}
    assert open_artifact(tmp_path / "out").manifest == old.manifest


def test_what_was_replaced_but_not_yet_removed_goes(tmp_path: Path) -> None:
    write_small_artifact(tmp_path / "out")
    (tmp_path / ".out.replaced").mkdir()
    (tmp_path / ".out2.partial").mkdir()
    write_small_artifact(tmp_path / "out", force=True)
    assert names(tmp_path) == {"out", ".out2.partial"}
