"""`mwc run`, with a stand-in for the model."""

import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stand_ins import SEGMENT, TRANSCRIPT, StandInModel, StandInStream, no_audio

from mwc.cli.main import main
from mwc.cli.values import temperatures
from mwc.runtime.errors import ArtifactError, BusyError, DeviceError, MemoryShortage
from mwc.runtime.report import Coverage
from mwc.runtime.transcript import Segment, Word
from mwc.runtime.writers import WRITERS

Captured = pytest.CaptureFixture[str]


def test_text_goes_to_stdout_and_nothing_else(
    model: StandInModel, artifact: Path, capsys: Captured
) -> None:
    assert main(["run", str(artifact), "a.wav"]) == 0
    out, err = capsys.readouterr()
    assert out == "Grüße,\nWelt.\n"
    assert err.startswith("mwc: 4.0 s of audio in ")
    assert model.calls == [("a.wav", {})]
    assert model.loads == [(artifact, {"device": "auto", "threads": None})]


def test_a_segment_is_printed_before_the_next_is_decoded(
    model: StandInModel, artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    seen = []

    class Stream(StandInStream):
        def __iter__(self) -> Iterator[Segment]:
            for segment in self.transcribe().segments:
                seen.append(capsys.readouterr().out)
                yield segment

    monkeypatch.setattr("stand_ins.StandInStream", Stream)
    assert main(["run", str(artifact), "a.wav"]) == 0
    assert seen == ["", "Grüße,\n"]


def test_what_was_wrong_with_the_audio_is_told(
    model: StandInModel, artifact: Path, capsys: Captured
) -> None:
    model.warnings = ["a.wav is truncated"]
    for form in ("txt", "json"):
        assert main(["run", str(artifact), "a.wav", "--quiet", "-f", form]) == 0
        assert capsys.readouterr().err == "mwc: a.wav is truncated\n"


def test_a_detected_language_is_told(model: StandInModel, artifact: Path, capsys: Captured) -> None:
    model.transcript = replace(TRANSCRIPT, language="de", language_probability=0.984)
    assert main(["run", str(artifact), "a.wav"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "mwc: the language is German (de), probability 0.98"


def test_that_there_is_no_text_is_told(
    model: StandInModel, artifact: Path, capsys: Captured
) -> None:
    model.transcript = replace(TRANSCRIPT, text="", segments=())
    for name in ("a.wav", "b.wav"):
        assert main(["run", str(artifact), name]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("mwc: no text: nothing that the model takes for speech\n") == 2


def test_the_speed_is_that_of_what_was_heard(
    model: StandInModel, artifact: Path, capsys: Captured
) -> None:
    for times, told in (("1,1.5,2", "2.5 s"), ("3,90", "1.0 s"), ("0.5", "3.5 s")):
        assert main(["run", str(artifact), "a.wav", "--clip-timestamps", times]) == 0
        assert f"mwc: {told} of audio in" in capsys.readouterr().err


def test_what_is_there_is_left_out(
    model: StandInModel, artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    audio = [tmp_path / f"{name}.wav" for name in "abcd"]
    for path in audio:
        path.write_bytes(b"sound")
    made = tmp_path / "made"
    made.mkdir()
    (made / "a.txt").write_text("as it was\n")
    (made / "b.srt").write_text("another format\n")
    (made / "c.txt").write_text("of what was there before\n")
    os.utime(made / "c.txt", (1, 1))
    line = ["run", str(artifact), *map(str, audio), "-o", str(made), "--skip-existing"]
    assert main(line) == 0
    assert [call[0] for call in model.calls] == [str(path) for path in audio[1:]]
    assert (made / "a.txt").read_text() == "as it was\n"
    assert (made / "c.txt").read_text() == "Grüße,\nWelt.\n"
    assert "mwc: transcripts of 1 of 4 files are there already" in capsys.readouterr().err
    assert main(line) == 0
    assert len(model.calls) == 3
    assert len(model.loads) == 1  # nothing is loaded for nothing
    assert "mwc: transcripts of 4 of 4 files are there already" in capsys.readouterr().err
    assert main(["run", str(artifact), "a.wav", "--skip-existing"]) == 2
    assert "looks for transcripts in --output-dir; give it too" in capsys.readouterr().err


def test_quiet(model: StandInModel, artifact: Path, capsys: Captured) -> None:
    assert main(["run", str(artifact), "a.wav", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_options_arrive_as_openai_whisper_names_them(model: StandInModel, artifact: Path) -> None:
    line = (
        "a.wav --language German --task translate --without_timestamps True --initial_prompt a_b "
        "--condition_on_previous_text False --no_speech_threshold None --logprob-threshold=-2 "
        "--clip_timestamps 0,2 --suppress_tokens -1 --sample-len 8 --beam_size 3 --best-of 2 "
        "--patience 1.5 --length_penalty 0.6 --seed 7 --word_timestamps False "
        "--temperature 0 --temperature_increment_on_fallback 0.5"
    )
    assert main(["run", str(artifact), *line.split()]) == 0
    assert model.calls[0][1] == {
        "language": "German",
        "task": "translate",
        "without_timestamps": True,
        "initial_prompt": "a_b",
        "condition_on_previous_text": False,
        "no_speech_threshold": None,
        "logprob_threshold": -2.0,
        "clip_timestamps": "0,2",
        "suppress_tokens": "-1",
        "sample_len": 8,
        "beam_size": 3,
        "best_of": 2,
        "patience": 1.5,
        "length_penalty": 0.6,
        "seed": 7,
        "word_timestamps": False,
        "temperature": (0.0, 0.5, 1.0),
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--temperature 0", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ("--temperature 0.5", (0.5, 0.7, 0.9)),
        ("--temperature=1.0", (1.0,)),
        ("--temperature 1.5", (1.5,)),
        ("--temperature 0.5 --temperature-increment-on-fallback 0", (0.5,)),
        ("--temperature_increment_on_fallback None", (0.0,)),
        ("--temperature_increment_on_fallback 0.5", (0.0, 0.5, 1.0)),
        ("--temperature 0.1 --temperature_increment_on_fallback=0.3", (0.1, 0.4, 0.7, 1.0)),
    ],
)
def test_temperatures_go_up_to_1(
    model: StandInModel, artifact: Path, line: str, expected: tuple[float, ...]
) -> None:
    assert main(["run", str(artifact), "a.wav", *line.split()]) == 0
    assert model.calls[0][1] == {"temperature": expected}


@pytest.mark.parametrize("increment", [None, 0.0, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.5, 1.0])
@pytest.mark.parametrize("first", [0.0, 0.1, 0.2, 0.4, 0.9, 1.0])
def test_temperatures_are_openai_whispers(first: float, increment: float | None) -> None:
    # openai/whisper `cli`, where an increment of 0 is an error.
    theirs = np.arange(first, 1.0 + 1e-6, increment) if increment else [first]
    assert temperatures(first, increment) == pytest.approx(tuple(theirs), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--beam_size 50", "from 1 to 16"),
        ("--best-of 0", "from 1 to 16"),
        ("--patience 2", "give beam_size above 1"),
        ("--length_penalty 2", "from 0 to 1"),
        ("--seed -1", "whole number from 0"),
        ("--seed x", "whole number"),
        ("--seed 7 --temperature_increment_on_fallback None", "temperature is 0; give one above"),
        ("--seed 7 --compression_ratio_threshold None --logprob_threshold None", "none is tried"),
        ("--temperature 3", "from 0 to 2"),
        ("--temperature None", "takes a number from 0 to 2, not None"),
        ("--temperature_increment_on_fallback -0.2", "a number from 0.01 to 1"),
        ("--temperature_increment_on_fallback nan", "a number from 0.01 to 1"),
        ("--temperature nan", "it takes finite numbers"),
        ("--temperature -1", "from 0 to 2"),
        ("--temperature-inc 0.1", "use --temperature-increment-on-fallback"),
        ("-nf", "use --temperature-increment-on-fallback None"),
        ("--vad", "use --vad-filter"),
        ("--vad_threshold 0.4", "--vad-threshold says how speech is detected: it needs --vad-f"),
        ("--vad_speech_pad_ms 5 --vad_filter False", "--vad-speech-pad-ms says how"),
        ("--vad_filter True --vad_threshold 2", "above 0, up to 1"),
        ("--vad_filter True --vad_speech_pad_ms wide", "a number or None"),
        ("--batched True", "use --batch-size with a number above 1"),
        ("--batch_size 999", "from 1 to 256"),
        ("--language de --languages de,en", "leave one of them out"),
        ("--language_detection_threshold 0.5", "give multilingual=True too"),
        ("--hallucination_silence_threshold 2", "give word_timestamps=True too"),
        ("--append_punctuations . --word_timestamps False", "give word_timestamps=True too"),
        ("--word_timestamps True --hallucination_silence_threshold soon", "a number or None"),
        ("--task summarise", "transcribe"),
        ("--beam_size five", "whole number"),
        ("--logprob_threshold low", "a number or None"),
        ("--clip_timestamps 5,1", "ascending"),
        ("--output_format doc", "html or all, not 'doc'"),
        ("--output_format srt b.wav", "several inputs needs --output-dir"),
        ("-f srt --max_line_width 20", "needs --word-timestamps True"),
        ("-f vtt --highlight-words", "needs --word-timestamps True"),
        ("--word_timestamps True --max_line_width 20", "srt and vtt only"),
        ("--word_timestamps True -f lrc --max_words_per_line 2", "srt and vtt only"),
        ("--word_timestamps True -f csv --highlight_words True", "srt and vtt and lrc only"),
        ("--word_timestamps True -f srt --max_line_width wide", "a whole number or None"),
        ("--word_timestamps True -f srt --max_line_width 0", "whole number from 1"),
        ("--word_timestamps True -f srt --max_line_count 2", "without max_line_width"),
        ("--output_format all", "needs --output-dir"),
        ("-f srt -f vtt", "--output-format srt and vtt writes several files, so it needs"),
        ("-f srt -f doc", "html or all, not 'doc'"),
        ("--no-speech-threshold 60", "from 0 to 1"),
        ("--compute_type int8", "mwc convert --precision"),
        ("--no-such-option", "--no-such-option"),
        ("--threads many", "--threads takes a whole number, not 'many'"),
        ("--threads 0", "at least 1"),
        ("--sample-len 1.5", "a whole number or None, not '1.5'"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_loaded(
    model: StandInModel, artifact: Path, capsys: Captured, options: str, told: str
) -> None:
    assert main(["run", str(artifact), "a.wav", *options.split()]) == 2
    out, err = capsys.readouterr()
    assert told in err
    assert "Traceback" not in err
    assert not out
    assert not model.loads


def test_device_and_threads(model: StandInModel, artifact: Path) -> None:
    assert main(["run", str(artifact), "a.wav", "--device", "cuda", "--threads", "2"]) == 0
    assert main(["run", str(artifact), "a.wav", "--device", "cpu-x86-64-v3", "-t", "1"]) == 0
    assert [options for _, options in model.loads] == [
        {"device": "gpu", "threads": 2},
        {"device": "cpu-x86-64-v3", "threads": 1},
    ]


def test_json_on_stdout(model: StandInModel, artifact: Path, capsys: Captured) -> None:
    assert main(["run", str(artifact), "a.wav", "-f", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == TRANSCRIPT.to_dict()


def test_several_files_on_stdout_are_told_apart(
    model: StandInModel, artifact: Path, capsys: Captured
) -> None:
    assert main(["run", str(artifact), "a.wav", "b.wav"]) == 0
    text = "Grüße,\nWelt.\n"
    assert capsys.readouterr().out == f"==> a.wav <==\n{text}==> b.wav <==\n{text}"

    assert main(["run", str(artifact), "a.wav", "b.wav", "-f", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"audio": name, **TRANSCRIPT.to_dict()} for name in ("a.wav", "b.wav")]


def test_files_are_named_after_their_audio(
    model: StandInModel, artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    folder = tmp_path / "new" / "folder"
    audio = [tmp_path / "a.b.wav", tmp_path / "c.mp3"]
    for path in audio:
        path.write_bytes(b"RIFF")
    line = ["run", str(artifact), *map(str, audio), "-o", str(folder), "-f", "all"]
    assert main(line) == 0
    assert capsys.readouterr().out == ""
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{stem}.{form}" for stem in ("a.b", "c") for form in WRITERS}
    assert (folder / "c.txt").read_text(encoding="utf-8") == "Grüße,\nWelt.\n"
    assert json.loads((folder / "a.b.json").read_bytes()) == TRANSCRIPT.to_dict()


def test_two_audios_of_one_name_are_refused(
    model: StandInModel, artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["run", str(artifact), "x/a.wav", "y/a.mp3", "-o", str(tmp_path / "out")]) == 2
    assert "same file (a)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["txt", "all"])
def test_no_transcript_takes_the_place_of_its_audio(
    form: str, model: StandInModel, artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    audio = tmp_path / "talk.txt"
    audio.write_bytes(b"RIFF")
    line = ["run", str(artifact), str(audio), "-f", form]
    assert main([*line, "-o", str(tmp_path)]) == 2
    assert f"{str(audio)!r} is to be read, and a transcript would" in capsys.readouterr().err
    assert audio.read_bytes() == b"RIFF"
    (tmp_path / "b.wav").symlink_to(audio)
    line = ["run", str(artifact), str(tmp_path / "b.wav"), str(audio), "-f", form]
    assert main([*line, "-o", str(tmp_path)]) == 2
    assert not model.calls


def test_output_dir_that_is_a_link_to_nothing(
    model: StandInModel, artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert main(["run", str(artifact), "a.wav", "-o", str(tmp_path / "link")]) == 2
    assert "is a link to nothing" in capsys.readouterr().err


def test_standard_input_twice(model: StandInModel, artifact: Path, capsys: Captured) -> None:
    assert main(["run", str(artifact), "-", "-"]) == 2
    assert "standard input can be read once" in capsys.readouterr().err


def test_standard_input_that_is_closed(
    model: StandInModel, artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main(["run", str(artifact), "-"]) == 2
    assert "nothing is piped into it" in capsys.readouterr().err


def test_output_dir_that_is_an_artifact(
    model: StandInModel, artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    other = tmp_path / "tiny"
    (other / "targets").mkdir(parents=True)
    (other / "manifest.json").write_text("{}")
    assert main(["run", str(artifact), "a.wav", "-o", str(other)]) == 2
    assert f"{str(other)!r} is an artifact; choose another folder" in capsys.readouterr().err
    assert not model.calls


def test_signs_that_would_move_the_cursor_are_not_written(
    model: StandInModel, artifact: Path, capsys: Captured
) -> None:
    assert main(["run", str(artifact), "a\x1b[2J.wav", "b\n.wav"]) == 0
    out, err = capsys.readouterr()
    assert "==> a?[2J.wav <==" in out
    assert "==> b?.wav <==" in out
    assert "\x1b" not in err
    assert "mwc: b?.wav: 4.0 s of audio in" in err


def test_output_dir_that_is_a_file(
    model: StandInModel, artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "file").touch()
    assert main(["run", str(artifact), "a.wav", "-o", str(tmp_path / "file")]) == 2
    assert "must be a folder" in capsys.readouterr().err


def test_output_dir_that_cannot_be_written_to(
    model: StandInModel,
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    (tmp_path / "file").touch()
    assert main(["run", str(artifact), "a.wav", "-o", str(tmp_path / "file" / "deep")]) == 2
    assert "does not allow it" in capsys.readouterr().err

    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    assert main(["run", str(artifact), "a.wav", "-o", str(tmp_path / "new" / "deep")]) == 2
    assert f"{str(tmp_path)!r} does not allow it" in capsys.readouterr().err
    assert not model.loads


def test_subtitles_on_stdout(model: StandInModel, artifact: Path, capsys: Captured) -> None:
    assert main(["run", str(artifact), "a.wav", "-q", "--output_format", "srt"]) == 0
    assert capsys.readouterr().out == TRANSCRIPT.to_srt()


def test_several_formats(model: StandInModel, artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    line = ["run", str(artifact), "a.wav", "-o", str(folder), "-f", "srt", "-f", "json"]
    assert main([*line, "--output_format", "srt"]) == 0
    assert {path.name for path in folder.iterdir()} == {"a.srt", "a.json"}
    assert (folder / "a.srt").read_text(encoding="utf-8") == TRANSCRIPT.to_srt()
    assert model.calls == [("a.wav", {"coverage": True})]


def test_subtitle_options_with_hyphens_or_underscores(
    model: StandInModel, artifact: Path, capsys: Captured
) -> None:
    words = (Word(" Grüße,", 0.0, 1.0, 0.9), Word(" Welt.", 1.0, 2.5, 0.5))
    segment = replace(SEGMENT, text=" Grüße, Welt.", words=words)
    model.transcript = replace(TRANSCRIPT, segments=(segment,))
    for line, layout in (
        ("--max_line_width 8 --max-line-count=1", {"max_line_width": 8, "max_line_count": 1}),
        ("--highlight_words True", {"highlight_words": True}),
        ("--highlight-words --max_line_width None", {"highlight_words": True}),
        ("--max-words-per-line 1 --highlight_words False", {"max_words_per_line": 1}),
    ):
        options = ["-q", "-f", "vtt", "--word_timestamps", "True", *line.split()]
        assert main(["run", str(artifact), "a.wav", *options]) == 0
        assert capsys.readouterr().out == model.transcript.to_vtt(**layout)
        assert model.calls[-1][1] == {"word_timestamps": True}


def test_a_page_asks_for_words_and_plays_its_audio(
    model: StandInModel, artifact: Path, tmp_path: Path
) -> None:
    audio = tmp_path / "talk & more.wav"
    audio.write_bytes(b"RIFF")
    line = ["run", str(artifact), str(audio), "-f", "html", "-o", str(tmp_path)]
    assert main([*line, "--task", "translate"]) == 0
    options = {"task": "translate", "word_timestamps": True, "coverage": True}
    assert model.calls == [(str(audio), options)]
    page = (tmp_path / "talk & more.html").read_text(encoding="utf-8")
    assert page == TRANSCRIPT.to_html(audio, text_language="en")
    assert "<title>talk &amp; more.wav</title>" in page
    assert 'src="data:audio/wav;base64,UklGRg=="' in page

    assert main([*line, "--no-word-timestamps"]) == 0
    assert model.calls[-1][1] == {"word_timestamps": False, "coverage": True}


def test_audio_that_has_gone_costs_the_page_only(
    model: StandInModel, artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    folder = tmp_path / "out"
    audio = tmp_path / "gone.wav"
    assert main(["run", str(artifact), str(audio), "-f", "all", "-o", str(folder)]) == 1
    told = capsys.readouterr()
    assert f"gone.html cannot be written (No such file or directory: {audio}), so" in told.err
    assert told.out == TRANSCRIPT.to_txt()
    names = {path.name for path in folder.iterdir()}
    assert names == {f"gone.{form}" for form in WRITERS if form != "html"}


def test_a_page_of_piped_audio_plays_nothing(
    model: StandInModel, artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"RIFF")))
    assert main(["run", str(artifact), "-", "-q", "-f", "html"]) == 0
    assert capsys.readouterr().out == TRANSCRIPT.to_html(title="stdin")


def test_nothing_half_written_and_nothing_lost_when_a_writer_fails(
    model: StandInModel,
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    def fail(transcript: object, file: io.TextIOBase, options: object) -> None:
        file.write("half")
        raise OSError(28, "No space left on device", "a.txt")

    monkeypatch.setitem(WRITERS, "srt", fail)
    out = tmp_path / "out"
    assert main(["run", str(artifact), "a.wav", "-f", "srt", "-o", str(out)]) == 1
    told = capsys.readouterr()
    assert f"mwc: {out}/a.srt cannot be written (No space left on device), so" in told.err
    assert told.out == TRANSCRIPT.to_txt()
    assert list(out.iterdir()) == []


def test_a_page_of_a_pipe_plays_nothing(
    model: StandInModel, artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    """What came through it is gone: it must not be opened again, which would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    assert main(["run", str(artifact), str(tmp_path / "pipe"), "-q", "-f", "html"]) == 0
    assert capsys.readouterr().out == TRANSCRIPT.to_html(title="pipe")
    assert TRANSCRIPT.to_html(tmp_path / "pipe") == TRANSCRIPT.to_html(title="pipe")


@pytest.mark.parametrize("options", [[], ["--batch-size", "2"], ["--device", "cpu,cpu"]])
def test_one_file_that_cannot_be_written_does_not_stop_the_others(
    options: list[str], model: StandInModel, artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "a.txt").mkdir()
    line = ["run", str(artifact), "a.wav", "b.wav", "-o", str(tmp_path), *options]
    assert main(line) == 3
    told = capsys.readouterr()
    assert f"mwc: {tmp_path}/a.txt cannot be written (Is a directory), so the text" in told.err
    assert "make room" not in told.err
    assert told.out == TRANSCRIPT.to_txt()
    assert (tmp_path / "b.txt").read_text(encoding="utf-8") == TRANSCRIPT.to_txt()


def test_a_file_that_fails_has_no_heading(
    model: StandInModel, artifact: Path, capsys: Captured
) -> None:
    model.errors["a.wav"] = no_audio("a.wav")
    name = os.fsdecode(b"caf\xe9.wav")
    assert main(["run", str(artifact), "a.wav", name]) == 3
    assert capsys.readouterr().out == f"==> caf?.wav <==\n{TRANSCRIPT.to_txt()}"


def test_one_bad_file_does_not_stop_the_others(
    model: StandInModel, artifact: Path, capsys: Captured
) -> None:
    model.errors["b.wav"] = no_audio("b.wav")
    assert main(["run", str(artifact), "a.wav", "b.wav", "c.wav", "-f", "json"]) == 3
    out, err = capsys.readouterr()
    assert [json.loads(line)["audio"] for line in out.splitlines()] == ["a.wav", "c.wav"]
    assert "mwc: b.wav is not audio" in err


def test_a_batch_takes_several_files_together(
    model: StandInModel, artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    model.errors["b.wav"] = no_audio("b.wav")
    line = ["run", str(artifact), "a.wav", "b.wav", "c.wav", "--batch-size", "8"]
    assert main(line) == 3
    out, err = capsys.readouterr()
    text = "Grüße,\nWelt.\n"
    assert out == f"==> a.wav <==\n{text}==> c.wav <==\n{text}"
    assert "mwc: b.wav is not audio" in err
    assert "mwc: 2 files: 8.0 s of audio in " in err
    assert model.calls == [(name, {"batch_size": 8}) for name in ("a.wav", "b.wav", "c.wav")]
    assert main([*line, "-o", str(tmp_path), "-f", "srt", "-q"]) == 3
    assert sorted(path.name for path in tmp_path.glob("*.srt")) == ["a.srt", "c.srt"]


def test_files_of_a_batch_are_written_when_they_are_done(
    model: StandInModel, artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    names = ["a.wav", "b.wav", "c.wav", "d.wav"]
    line = ["run", str(artifact), *names, "--batch-size", "8"]
    model.late = ["a.wav", "c.wav"]
    assert main(line) == 0
    heads = [text for text in capsys.readouterr().out.splitlines() if text.startswith("==>")]
    assert heads == [f"==> {name} <==" for name in names]
    # Whatever ends it, what is done is written, and printed though others were to come before.
    for error, code in [(DeviceError("gpu failed."), 1), (KeyboardInterrupt(), 130)]:
        model.errors["a.wav"] = error
        assert main(line) == code
        heads = [text for text in capsys.readouterr().out.splitlines() if text.startswith("==>")]
        assert heads == ["==> b.wav <==", "==> d.wav <=="]
        folder = tmp_path / str(code)
        assert main([*line, "-o", str(folder), "-f", "srt"]) == code
        assert sorted(path.name for path in folder.iterdir()) == ["b.srt", "d.srt"]
        told = (
            f"transcripts are in {folder}; the same command with --skip-existing makes the others"
        )
        assert told in capsys.readouterr().err
    # The same command would be refused once more.
    model.errors["a.wav"] = MemoryShortage("8 windows do not fit; lower batch_size.")
    assert main([*line, "-o", str(tmp_path / "small"), "-f", "srt"]) == 1
    err = capsys.readouterr().err
    assert "8 windows do not fit" in err
    assert "--skip-existing" not in err


@pytest.mark.parametrize("devices", ["all", "gpu:0,gpu:1"])
def test_several_devices(
    model: StandInModel, artifact: Path, capsys: Captured, devices: str
) -> None:
    line = ["run", str(artifact), "a.wav", "b.wav", "--device", devices, "--threads", "1"]
    assert main(line) == 0
    assert model.loads == [(artifact, {"device": devices, "threads": 1})]
    assert capsys.readouterr().out.count("==>") == 2
    model.left_out = ["gpu:1 is left out: it is full."]
    assert main(line) == 0
    assert "mwc: gpu:1 is left out: it is full.\n" in capsys.readouterr().err
    model.errors["a.wav"] = no_audio("a.wav")
    assert main([*line[:3], *line[4:]]) == 1
    assert "mwc: a.wav is not audio" in capsys.readouterr().err


def test_all_of_several_files_bad(model: StandInModel, artifact: Path, capsys: Captured) -> None:
    model.errors = {name: no_audio(name) for name in ("a.wav", "b.wav")}
    assert main(["run", str(artifact), "a.wav", "b.wav", "-q"]) == 1
    assert capsys.readouterr().err.count("is not audio") == 2


@pytest.mark.parametrize("error", [no_audio("a.wav"), BusyError("busy"), ArtifactError("bad")])
def test_an_error_is_one_sentence(
    model: StandInModel, artifact: Path, capsys: Captured, error: Exception
) -> None:
    model.errors["a.wav"] = error
    assert main(["run", str(artifact), "a.wav"]) == 1
    assert capsys.readouterr() == ("", f"mwc: {error}\n")


def test_what_would_fail_for_every_file_is_told_once(
    model: StandInModel, artifact: Path, capsys: Captured
) -> None:
    model.errors["a.wav"] = ArtifactError("the weights are gone")
    assert main(["run", str(artifact), "a.wav", "b.wav", "-f", "json"]) == 1
    assert capsys.readouterr().err == "mwc: the weights are gone\n"
    assert len(model.calls) == 1


def test_standard_input(
    model: StandInModel, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = io.TextIOWrapper(io.BytesIO(b"RIFF"))
    monkeypatch.setattr("sys.stdin", piped)
    assert main(["run", str(artifact), "-", "-o", str(tmp_path)]) == 0
    assert model.calls[0][0] is piped.buffer
    assert (tmp_path / "stdin.txt").is_file()


def test_no_artifact(model: StandInModel, tmp_path: Path, capsys: Captured) -> None:
    assert main(["run", str(tmp_path / "nowhere"), "a.wav"]) == 1
    assert "there is no artifact or checkpoint at" in capsys.readouterr().err
    assert not model.loads


def test_options_on_speech_and_languages_arrive(model: StandInModel, artifact: Path) -> None:
    line = (
        "a.wav --languages de,fr --multilingual True --language_detection_threshold 0.5 "
        "--hotwords Vega --batch_size 8 --vad_filter True --vad_threshold 0.4 "
        "--vad_min_speech_duration_ms 250 --vad-max-speech-duration-s 20 "
        "--vad_min_silence_duration_ms 500 --vad_speech_pad_ms 200 --coverage False"
    )
    assert main(["run", str(artifact), *line.split()]) == 0
    assert model.calls[0][1] == {
        "languages": "de,fr",
        "multilingual": True,
        "language_detection_threshold": 0.5,
        "hotwords": "Vega",
        "batch_size": 8,
        "vad_filter": True,
        "vad_parameters": {
            "threshold": 0.4,
            "min_speech_duration_ms": 250.0,
            "max_speech_duration_s": 20.0,
            "min_silence_duration_ms": 500.0,
            "speech_pad_ms": 200.0,
        },
        "coverage": False,
    }


@pytest.mark.parametrize(("form", "tells"), [("json", True), ("html", True), ("srt", False)])
def test_formats_that_report_coverage_ask_for_it(
    form: str, tells: bool, model: StandInModel, artifact: Path, tmp_path: Path
) -> None:
    line = ["run", str(artifact), "a.wav", "-f", form, "-o", str(tmp_path)]
    Path(tmp_path / "a.wav").touch()
    if form == "html":
        line[2] = str(tmp_path / "a.wav")
    assert main(line) == 0
    assert model.calls[0][1].get("coverage", False) is tells
    assert main([*line, "--no-coverage"]) == 0
    assert model.calls[1][1]["coverage"] is False


@pytest.mark.parametrize(
    ("missing", "options", "told"),
    [
        (0.5, [], False),
        (0.5, ["--coverage"], True),
        (3.0, [], True),
        (3.0, ["--quiet"], False),
    ],
)
def test_speech_without_text_is_told(
    missing: float,
    options: list[str],
    told: bool,
    model: StandInModel,
    artifact: Path,
    capsys: Captured,
) -> None:
    coverage = Coverage("silero-vad 6.2", 4.0, ((1.0, 1.0 + missing),))
    model.transcript = replace(model.transcript, coverage=coverage)
    assert main(["run", str(artifact), "a.wav", *options]) == 0
    assert (f"{missing} s of it without text" in capsys.readouterr().err) is told


def test_speech_without_text_is_told_of_each_file(
    model: StandInModel, artifact: Path, capsys: Captured
) -> None:
    coverage = Coverage("silero-vad 6.2", 4.0, ((0.0, 1.9),))
    model.transcript = replace(model.transcript, coverage=coverage)
    assert main(["run", str(artifact), "a.wav", "b.wav", "--coverage"]) == 0
    err = capsys.readouterr().err
    for name in ("a.wav", "b.wav"):
        assert (
            f"{name}: 4.0 s of speech (silero-vad 6.2), 1.9 s of it without text: 0:00 to 0:02"
            in err
        )


def test_coverage_that_nothing_would_tell(
    model: StandInModel, artifact: Path, capsys: Captured
) -> None:
    assert main(["run", str(artifact), "a.wav", "--coverage", "--quiet"]) == 2
    assert "--quiet says nothing" in capsys.readouterr().err
    assert main(["run", str(artifact), "a.wav", "--coverage", "--quiet", "-f", "json"]) == 0
