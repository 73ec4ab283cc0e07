"""`--calibrate`: what a manifest may be, and what is counted."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from mwc.compiler import calibrate as calibrating
from mwc.compiler.calibrate import Recording, calibrate, check_packages, read_recordings
from mwc.runtime.errors import AudioError, OptionError
from mwc.runtime.progress import ProgressEvent


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes a manifest of these lines, with files a.wav and b.wav beside it."""
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"RIFF")

    def write(*lines: str, encoding: str = "utf-8") -> Path:
        path = tmp_path / "manifest.tsv"
        path.write_text("\n".join(lines) + "\n", encoding=encoding)
        return path

    return write


def test_columns_are_found_by_name_and_others_ignored(manifest: Callable[..., Path]) -> None:
    path = manifest(
        "seconds\ttranscript\tpath\tlanguage",
        '1.5\tHe said "no".\ta.wav\tde',
        "2.5\tDeux, trois\tb.wav\t",
    )
    assert read_recordings(path) == (
        Recording(path.parent / "a.wav", 'He said "no".', "de"),
        Recording(path.parent / "b.wav", "Deux, trois", None),
    )


def test_recordings_without_a_transcript_are_left_out(manifest: Callable[..., Path]) -> None:
    path = manifest("path\ttranscript", "a.wav\t  ", "b.wav\tyes", "nowhere.wav\t")
    assert [recording.path.name for recording in read_recordings(path)] == ["b.wav"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
def test_a_byte_order_mark_is_no_part_of_a_name(
    manifest: Callable[..., Path], encoding: str
) -> None:
    path = manifest("path\ttranscript", "a.wav\tyes", encoding=encoding)
    assert len(read_recordings(path)) == 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["path,transcript", "a.wav,yes"], ["no column path and transcript", "tab"]),
        (["path\ttext", "a.wav\tyes"], ["no column transcript", "path, text"]),
        ([""], ["no column path and transcript", "nothing"]),
        (["path\ttranscript"], ["no recording with a transcript"]),
        (["path\ttranscript", "a.wav\t"], ["no recording with a transcript"]),
        (["path\ttranscript", "c.wav\tyes", "a.wav\tno"], ["c.wav", "relative to the manifest"]),
        (["path\ttranscript", "c.wav\tyes", "d.wav\tno"], ["c.wav", "nor are 1 others"]),
        (["path\ttranscript", "a.wav\t[music]", "b.wav\t… !"], ["no recording with a transcript"]),
        (["transcript\tpath", "yes"], ["a transcript without a path"]),
    ],
)
def test_a_wrong_manifest_is_refused(
    manifest: Callable[..., Path], lines: list[str], words: list[str]
) -> None:
    with pytest.raises(OptionError) as caught:
        read_recordings(manifest(*lines))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.tsv").write_bytes(b"\xff\xfe\x00\x01")
    for path in (tmp_path / "manifest.tsv", tmp_path / "missing.tsv", tmp_path):
        with pytest.raises(OptionError, match="cannot be read"):
            read_recordings(path)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_packages()
    monkeypatch.setattr(calibrating, "find_spec", lambda name: None if name == "jiwer" else 1)
    with pytest.raises(OptionError, match=r"jiwer: pip install 'mwc\[calibrate\]'"):
        check_packages()


class FakeModel:
    """Says what its table has for a file."""

    said: ClassVar[dict[str, tuple[str, str]]] = {}

    def __init__(self, artifact: Any, *, device: str, threads: int | None) -> None:
        assert (artifact, device, threads) == ("artifact", "auto", None)

    def transcribe(self, path: Path, *, language: str | None) -> SimpleNamespace:
        if path.name not in self.said:
            raise AudioError(f"{path} holds no audio.")
        text, detected = self.said[path.name]
        return SimpleNamespace(text=text, language=language or detected)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str]]:
    monkeypatch.setattr("mwc.runtime.model.Model", FakeModel)
    monkeypatch.setattr(FakeModel, "said", {})
    return FakeModel.said


def test_errors_are_counted_by_language(said: dict[str, tuple[str, str]]) -> None:
    said |= {"a": ("Red green, blue.", "en"), "b": ("black grey", "en"), "c": ("un deux", "fr")}
    recordings = (
        Recording(Path("a"), "red green blue", None),
        Recording(Path("b"), "black white grey brown", "en"),
        Recording(Path("c"), "Un, deux!", None),
    )
    events: list[ProgressEvent] = []
    english, french = calibrate("artifact", recordings, events.append)  # type: ignore[arg-type]
    assert (english.language, english.recordings, english.errors.words) == ("en", 2, 7)
    assert (english.errors.deletions, english.rate) == (2, pytest.approx(2 / 7))
    assert (french.language, french.recordings, french.rate) == ("fr", 1, 0.0)
    assert "28.57 % in en (2 recordings, 7 words)" in english.summary()
    assert [(event.done, event.total) for event in events] == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_recording_that_cannot_be_decoded_is_named(said: dict[str, tuple[str, str]]) -> None:
    with pytest.raises(OptionError, match=r"--calibrate, noise: noise holds no audio"):
        calibrate("artifact", (Recording(Path("noise"), "yes", None),))  # type: ignore[arg-type]


def test_a_language_in_which_nothing_is_said_has_no_rate(
    said: dict[str, tuple[str, str]],
) -> None:
    """English leaves out such words, which was not known before the language was detected."""
    said |= {"a": ("Hmm.", "en"), "b": ("un", "fr")}
    recordings = (Recording(Path("a"), "Hmm.", None), Recording(Path("b"), "un", None))
    (only,) = calibrate("artifact", recordings)  # type: ignore[arg-type]
    assert (only.language, only.rate) == ("fr", 0.0)
