"""`mwc convert`, `mwc verify` and the cache, with a stand-in for the compiler."""

import json
from pathlib import Path

import pytest
from stand_ins import StandInCompiler, StandInModel, StandInReport

from mwc.cli import cache
from mwc.cli.console import Display
from mwc.cli.main import main
from mwc.runtime.errors import ArtifactError, CheckpointError

Captured = pytest.CaptureFixture[str]


def test_convert_says_what_it_made(
    compiler: StandInCompiler, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "out"
    assert main(["convert", "openai/whisper-tiny", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "note: alignment heads derived",
        "f32 matches numpy",
        "two lines",
        f"wrote {out} (3.5 s: weights 1.0, compile 2.5)",
    ]
    ((_, source, folder, options),) = compiler.calls
    assert (source, folder) == ("openai/whisper-tiny", out)
    assert (options.precision, options.targets, options.verify) == ("f32", ("cpu",), True)


def test_convert_options(compiler: StandInCompiler, tmp_path: Path) -> None:
    line = (
        "--precision bf16 --target cpu --target cpu:x86-64-v3 --revision v1 --tokenizer tok "
        "--no-verify --force --calibrate mine.tsv"
    )
    compiler.report = None
    assert main(["convert", "src", str(tmp_path / "out"), *line.split()]) == 0
    options = compiler.calls[0][3]
    assert options.precision == "bf16"
    assert options.targets == ("cpu", "cpu:x86-64-v3")
    assert (options.revision, options.tokenizer) == ("v1", "tok")
    assert (options.verify, options.force) == (False, True)
    assert options.calibrate == Path("mine.tsv")


def test_convert_without_verification_says_so(
    compiler: StandInCompiler, tmp_path: Path, capsys: Captured
) -> None:
    compiler.report = None
    assert main(["convert", "src", str(tmp_path / "out"), "--no-verify"]) == 0
    assert "not verified" in capsys.readouterr().out


def test_convert_needs_out(compiler: StandInCompiler, capsys: Captured) -> None:
    assert main(["convert", "src"]) == 2
    assert "needs OUT" in capsys.readouterr().err
    assert not compiler.calls


def test_add_target(compiler: StandInCompiler, artifact: Path, capsys: Captured) -> None:
    line = ["convert", str(artifact), "--add-target", "cpu:x86-64-v3", "--add-target", "cpu"]
    assert main(line) == 0
    assert compiler.calls == [
        ("add_target", artifact, "cpu:x86-64-v3"),
        ("add_target", artifact, "cpu"),
    ]
    assert capsys.readouterr().err.count("note: it is slow.") == 1


@pytest.mark.parametrize(
    "beside",
    [
        "out",
        "--target cpu",
        "--precision bf16",
        "--precision f32",
        "--force",
        "--no-verify",
        "--revision x",
    ],
)
def test_add_target_goes_alone(
    compiler: StandInCompiler, artifact: Path, beside: str, capsys: Captured
) -> None:
    assert main(["convert", str(artifact), *beside.split(), "--add-target", "cpu"]) == 2
    assert "cannot go with it" in capsys.readouterr().err
    assert not compiler.calls


def test_verify(compiler: StandInCompiler, artifact: Path, capsys: Captured) -> None:
    assert main(["verify", str(artifact), "--against", "src", "--revision", "v1"]) == 0
    assert capsys.readouterr().out == "f32 matches numpy\ntwo lines\n"
    assert compiler.calls == [
        ("verify", artifact, "src", {"revision": "v1", "tokenizer": None}),
    ]
    compiler.report = StandInReport(ok=False)
    assert main(["verify", str(artifact), "--against", "src", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"ok": False}


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that could hold a checkpoint; the cache is empty, and anything in it opens."""
    monkeypatch.setenv("MWC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mwc.runtime.artifact.open_artifact", lambda path: path)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_run_converts_a_checkpoint_once(
    model: StandInModel, compiler: StandInCompiler, checkpoint: Path, capsys: Captured
) -> None:
    assert main(["run", str(checkpoint), "a.wav"]) == 0
    err = capsys.readouterr().err
    assert f"converting {checkpoint} once into" in err
    assert "mwc: alignment heads derived\nmwc: f32 matches numpy\n" in err
    assert main(["run", str(checkpoint), "a.wav"]) == 0
    assert "converting" not in capsys.readouterr().err
    assert len(compiler.calls) == 1
    first, second = (path for path, _ in model.loads)
    assert first == second == compiler.calls[0][2]
    assert first.is_relative_to(cache.cache_folder())


def test_a_cache_that_cannot_be_made(
    model: StandInModel, compiler: StandInCompiler, checkpoint: Path, capsys: Captured
) -> None:
    (checkpoint.parent / "cache").write_text("a file")
    assert main(["run", str(checkpoint), "a.wav"]) == 1
    err = capsys.readouterr().err
    assert "set MWC_CACHE to another folder" in err
    assert "converting" not in err
    assert compiler.calls == []


def test_a_changed_checkpoint_is_converted_again(
    model: StandInModel, compiler: StandInCompiler, checkpoint: Path
) -> None:
    assert main(["run", str(checkpoint), "a.wav"]) == 0
    (checkpoint / "config.json").write_text('{"changed": true}')
    assert main(["run", str(checkpoint), "a.wav"]) == 0
    assert len(compiler.calls) == 2


def test_a_damaged_entry_is_converted_again(
    model: StandInModel,
    compiler: StandInCompiler,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: Path) -> None:
        raise ArtifactError("damaged")

    assert main(["run", str(checkpoint), "a.wav"]) == 0
    monkeypatch.setattr("mwc.runtime.artifact.open_artifact", refuse)
    assert main(["run", str(checkpoint), "a.wav"]) == 0
    assert [call[3].force for call in compiler.calls] == [False, True]


def test_a_conversion_that_fails_is_told(
    model: StandInModel, compiler: StandInCompiler, checkpoint: Path, capsys: Captured
) -> None:
    compiler.error = CheckpointError("it holds no weights")
    assert main(["run", str(checkpoint), "a.wav", "-q"]) == 1
    assert capsys.readouterr().err == "mwc: it holds no weights\n"
    assert not model.loads


def test_another_process_may_convert_first(
    compiler: StandInCompiler, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = cache.cache_folder() / cache.entry_name(str(checkpoint))
    other = StandInCompiler()

    def lose_the_race(source: str, out: Path, *rest: object) -> None:
        other.convert(source, out, None, lambda event: None)
        raise ArtifactError("it exists already")

    monkeypatch.setattr("mwc.compiler.convert", lose_the_race)
    assert cache.artifact_for(str(checkpoint), Display(quiet=True)) == entry


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"MWC_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/mwc"),
        ({"HOME": "/c"}, "/c/.cache/mwc"),
    ],
)
def test_cache_folder(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    for name in ("MWC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.cache_folder() == Path(folder)


def test_what_can_be_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tiny.pt", "models/hf/config.json", "models/ct2/model.bin", "models/out/weights"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    named = ["pkg:tiny.en", "openai/whisper-tiny.en", "tiny.pt", "models/hf", "models/ct2"]
    assert all(map(cache.names_checkpoint, named))
    unnamed = ["models", "models/out", "models/whisper", "nowhere", "/no/where", "a/b/c", "../x"]
    assert not any(map(cache.names_checkpoint, unnamed))
