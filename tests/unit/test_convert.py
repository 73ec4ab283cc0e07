"""The main path's refusals and its promise: an artifact is complete or not there at all."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mwc.compiler import ConvertOptions, add_target, convert, verify_artifact
from mwc.compiler import convert as convert_function
from mwc.compiler import target as targets
from mwc.compiler.compile import CompileJob
from mwc.compiler.convert import SAMPLE
from mwc.compiler.parity import ParityReport, StageError
from mwc.runtime.artifact import open_artifact
from mwc.runtime.describe import describe, read_parity
from mwc.runtime.errors import (
    ArtifactError,
    CheckpointError,
    CompileError,
    MwcError,
    OptionError,
    VerificationError,
)
from mwc.runtime.progress import Progress, ProgressEvent
from mwc.runtime.spec import GraphSignature

UNVERIFIED = ConvertOptions(verify=False)


def converter():
    """The module behind `mwc.compiler.convert`, which the package hides behind its function."""
    import sys

    return sys.modules[convert_function.__module__]


@pytest.fixture
def fake_compiler(monkeypatch: pytest.MonkeyPatch) -> list[CompileJob]:
    """A compiler that writes a few bytes; returns the jobs it was given."""
    jobs: list[CompileJob] = []

    def compile_target(job: CompileJob, progress: Progress) -> tuple[GraphSignature, ...]:
        jobs.append(job)
        Path(job.mef).write_bytes(b"compiled for " + job.target.name.encode())
        return (GraphSignature("log_mel", (), (), ("log_mel.dft",)),)

    monkeypatch.setattr(converter(), "compile_target", compile_target)
    return jobs


def leftovers(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(os.listdir(folder))


def test_an_artifact_says_where_it_comes_from(
    random_checkpoint: Path, tmp_path: Path, fake_compiler: list[CompileJob]
) -> None:
    events: list[ProgressEvent] = []
    options = ConvertOptions(verify=False, targets=("cpu", "cpu:x86-64-v3"), precision="bf16")
    result = convert(random_checkpoint, tmp_path / "deep" / "out", options, events.append)
    artifact = open_artifact(result.artifact)
    manifest = artifact.manifest
    assert [target.name for target in manifest.targets] == ["cpu-host", "cpu-x86-64-v3"]
    assert [job.precision for job in fake_compiler] == ["bf16", "bf16"]
    assert manifest.provenance.source == str(random_checkpoint)
    assert manifest.provenance.options["targets"] == ["cpu", "cpu:x86-64-v3"]
    assert ("model.safetensors" in dict(manifest.provenance.files)) is True
    assert [weights.precision for weights in manifest.weights] == ["bf16"]
    assert artifact.holds("tokenizer/vocab.tiktoken")
    assert not artifact.holds("parity.json")
    assert {"weights", "hash"} <= {event.stage for event in events}
    assert set(result.seconds) >= {"checkpoint", "weights", "compile cpu-host"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ConvertOptions(precision="f64"), ["'f64'", "f32", "bf16"]),
        (ConvertOptions(targets=()), ["no target"]),
        (ConvertOptions(targets=("cpu", "cpu")), ["cpu-host", "twice"]),
        (ConvertOptions(targets=("tpu",)), ["'tpu'", "cpu", "cuda:sm_90a"]),
        (ConvertOptions(calibrate=Path("m.tsv"), verify=False), ["--calibrate", "--no-verify"]),
        (ConvertOptions(calibrate=Path("missing.tsv")), ["missing.tsv", "cannot be read"]),
        (
            ConvertOptions(precision="int8", targets=("cpu", "cuda:sm_90a")),
            ["int8", "cuda-sm_90a", "--precision f16 or bf16"],
        ),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    options: ConvertOptions, words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(OptionError) as caught:
        convert(tmp_path / "no checkpoint here", tmp_path / "out", options)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert leftovers(tmp_path) == []


def test_a_missing_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        convert(tmp_path / "missing", tmp_path / "out", UNVERIFIED)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("error", [CompileError("no"), KeyboardInterrupt(), OSError(28, "full")])
def test_an_interrupted_conversion_leaves_nothing(
    error: BaseException, random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_target(job: CompileJob, progress: Progress) -> tuple[GraphSignature, ...]:
        Path(job.mef).write_bytes(b"half")
        raise error

    monkeypatch.setattr(converter(), "compile_target", compile_target)
    expected = ArtifactError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        convert(random_checkpoint, tmp_path / "out", UNVERIFIED)
    assert leftovers(tmp_path) == []


def test_what_is_there_is_kept_without_force_and_replaced_with_it(
    random_checkpoint: Path, tmp_path: Path, fake_compiler: list[CompileJob]
) -> None:
    out = tmp_path / "out"
    convert(random_checkpoint, out, UNVERIFIED)
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(ArtifactError, match="--force"):
        convert(random_checkpoint, out, UNVERIFIED)
    assert (out / "manifest.json").read_bytes() == before
    convert(random_checkpoint, out, ConvertOptions(verify=False, force=True, precision="f16"))
    assert open_artifact(out).manifest.weights[0].precision == "f16"
    assert leftovers(tmp_path) == ["out"]


@pytest.mark.usefixtures("random_artifact")  # it is compiled once
def test_word_errors_on_recordings_are_part_of_the_report(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "mine.tsv"
    manifest.write_text("path\ttranscript\tlanguage\nspeech.flac\tnobody says this\ten\n")
    (tmp_path / "speech.flac").write_bytes(SAMPLE.read_bytes())
    options = ConvertOptions(calibrate=manifest)
    result = convert(random_checkpoint, tmp_path / "out", options)
    assert result.report is not None
    (measured,) = result.report.calibration
    assert (measured.language, measured.recordings, measured.errors.words) == ("en", 1, 3)
    assert measured.rate > 0
    assert "calibrate" in result.seconds
    artifact = open_artifact(result.artifact)
    report = read_parity(artifact)
    assert report is not None
    assert report["calibration"][0]["rate"] == measured.rate
    assert artifact.manifest.provenance.options["calibrate"] == "mine.tsv"
    assert f"word errors, en  {100 * measured.rate:.2f} % (1 recordings" in re.sub(
        "  +", "  ", describe(artifact)
    )


@pytest.mark.usefixtures("random_artifact")  # it is compiled once
def test_a_model_that_computes_something_else_is_not_written(
    random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graphs are right, the weights are not: verification has to notice and say where."""
    module = converter()
    mapped = module.mapped_weights

    def tampered(*arguments, **options):
        for spec, make in mapped(*arguments, **options):
            if spec.name == "encoder.layers.1.fc1.weight":
                yield spec, lambda make=make: make() * 1.01
            else:
                yield spec, make

    monkeypatch.setattr(module, "mapped_weights", tampered)
    with pytest.raises(VerificationError, match=r"encoder\.layers\.1"):
        convert(random_checkpoint, tmp_path / "out")
    assert leftovers(tmp_path) == []


def test_a_gpu_cannot_be_added_to_an_int8_artifact(
    random_checkpoint: Path, tmp_path: Path, fake_compiler: list[CompileJob]
) -> None:
    options = ConvertOptions(verify=False, precision="int8", targets=("cpu:x86-64-v4",))
    out = convert(random_checkpoint, tmp_path / "out", options).artifact
    target = open_artifact(out).manifest.targets[0]
    assert (target.precision, target.kv_dtype) == ("int8", "int8")
    with pytest.raises(OptionError, match="int8 is for CPUs"):
        add_target(out, "cuda:sm_90a")
    add_target(out, "cpu:x86-64-v3")
    assert [job.precision for job in fake_compiler] == ["int8", "int8"]


VNNI = ("avx512f", "avx512_vnni")


def test_int8_weights_for_vnni_alone_refuse_other_cpus(
    random_checkpoint: Path,
    tmp_path: Path,
    fake_compiler: list[CompileJob],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Made for such a CPU and others they are coarser, and good for all."""
    monkeypatch.setattr(targets, "host_features", lambda: VNNI)
    own = ConvertOptions(verify=False, precision="int8")
    out = convert(random_checkpoint, tmp_path / "own", own).artifact
    with pytest.raises(OptionError, match=r"--target cpu --target cpu:x86-64-v3\.$"):
        add_target(out, "cpu:x86-64-v3")
    assert [entry.name for entry in open_artifact(out).manifest.targets] == ["cpu-host"]
    assert len(fake_compiler) == 1

    shared = replace(own, targets=("cpu", "cpu:x86-64-v3"))
    out = convert(random_checkpoint, tmp_path / "shared", shared).artifact
    add_target(out, "cpu:x86-64-v4")
    assert len(fake_compiler) == 4


@pytest.mark.parametrize(
    ("precision", "targets", "drafts"),
    [
        ("f32", ("cpu",), True),
        ("f32", ("cuda:sm_90a", "cpu"), True),
        ("f32", ("cuda:sm_90a",), False),
        ("bf16", ("cpu",), False),
        ("int8", ("cpu",), False),
    ],
)
def test_float32_for_a_cpu_has_weights_to_draft_with(
    precision: str,
    targets: tuple[str, ...],
    drafts: bool,
    random_checkpoint: Path,
    tmp_path: Path,
    fake_compiler: list[CompileJob],
) -> None:
    options = ConvertOptions(verify=False, precision=precision, targets=targets)
    out = convert(random_checkpoint, tmp_path / "out", options).artifact
    (weights,) = open_artifact(out).manifest.weights
    assert any(tensor.name.startswith("draft.") for tensor in weights.tensors) == drafts
    if precision != "int8":
        notes = add_target(out, "cpu:x86-64-v4")
        assert any("no int8 copies" in note for note in notes) == (
            precision == "f32" and not drafts
        )


def test_int8_weights_made_without_vnni_can_be_used_with_it(
    random_checkpoint: Path,
    tmp_path: Path,
    fake_compiler: list[CompileJob],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(targets, "host_features", lambda: VNNI)
    options = ConvertOptions(verify=False, precision="int8", targets=("cpu:x86-64-v3",))
    out = convert(random_checkpoint, tmp_path / "out", options).artifact
    add_target(out, "cpu")
    assert len(fake_compiler) == 2


@pytest.mark.parametrize("precision", ["int8", "f32"])
def test_force_keeps_int8_beyond_its_bounds_and_nothing_else(
    precision: str,
    random_checkpoint: Path,
    tmp_path: Path,
    fake_compiler: list[CompileJob],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = StageError("step logits", max_abs=9.0, max_rel=0.5, bound=0.1, ok=False)
    report = ParityReport("numpy", precision, 0.1, (stage,), 10, 10, (), ok=False)
    monkeypatch.setattr(converter(), "_verify", lambda *_: report)
    out = tmp_path / "out"
    with pytest.raises(VerificationError, match="step logits"):
        convert(random_checkpoint, out, ConvertOptions(precision=precision))
    assert leftovers(tmp_path) == []
    forced = ConvertOptions(precision=precision, force=True)
    if precision == "f32":
        with pytest.raises(VerificationError):
            convert(random_checkpoint, out, forced)
        return
    result = convert(random_checkpoint, out, forced)
    assert result.report == report
    assert any("--force kept it" in note for note in open_artifact(out).manifest.provenance.notes)
    assert json.loads((out / "parity.json").read_text())["ok"] is False


def test_a_verified_artifact_holds_its_report(random_artifact: Path) -> None:
    report = json.loads((random_artifact / "parity.json").read_text())
    assert report["ok"] is True
    assert report["targets"] == ["cpu-host"]
    assert {"log_mel", "padding", "conv", "encoder", "step logits"} <= {
        stage["name"] for stage in report["stages"]
    }


def test_verify_compares_with_the_checkpoint_it_is_given(
    random_artifact: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    from tiny_checkpoint import write_tiny_checkpoint

    assert verify_artifact(random_artifact, random_checkpoint).ok
    ggml = write_tiny_checkpoint(tmp_path / "ggml", layout="ggml")  # states no alignment heads
    assert verify_artifact(random_artifact, ggml).ok
    other = write_tiny_checkpoint(tmp_path / "other", seed=1)
    assert not verify_artifact(random_artifact, other).ok
    deeper = write_tiny_checkpoint(tmp_path / "deeper", encoder_layers=3)
    with pytest.raises(VerificationError, match="n_audio_layer is 2 and not 3"):
        verify_artifact(random_artifact, deeper)


def test_adding_a_target_needs_no_checkpoint(
    random_checkpoint: Path, tmp_path: Path, fake_compiler: list[CompileJob]
) -> None:
    out = tmp_path / "out"
    convert(random_checkpoint, out, UNVERIFIED)
    add_target(out, "cuda:sm_90a")
    assert [t.name for t in open_artifact(out).manifest.targets] == ["cpu-host", "cuda-sm_90a"]
    with pytest.raises(OptionError, match="already holds"):
        add_target(out, "cpu")
    with pytest.raises(MwcError, match="is not one of"):
        add_target(out, "cuda:sm_0")
    assert leftovers(tmp_path) == ["out"]


def test_a_target_that_cannot_run_here_is_noted_as_not_verified(
    random_checkpoint: Path, tmp_path: Path, fake_compiler: list[CompileJob]
) -> None:
    result = convert(random_checkpoint, tmp_path / "out", ConvertOptions(targets=("cuda:sm_90a",)))
    assert result.report is None
    assert any("cuda-sm_90a is not verified" in note for note in result.notes)
    assert result.notes == open_artifact(result.artifact).manifest.provenance.notes


def test_word_errors_that_cannot_be_measured_here_are_noted(
    random_checkpoint: Path, tmp_path: Path, fake_compiler: list[CompileJob]
) -> None:
    manifest = tmp_path / "mine.tsv"
    manifest.write_text(f"path\ttranscript\n{SAMPLE}\tnobody says this\n")
    options = ConvertOptions(targets=("cuda:sm_90a",), calibrate=manifest)
    result = convert(random_checkpoint, tmp_path / "out", options)
    assert any("word errors are not measured" in note for note in result.notes)
    assert result.notes == open_artifact(result.artifact).manifest.provenance.notes


@pytest.mark.usefixtures("random_artifact")  # it is compiled once
def test_recordings_are_not_heard_by_a_wrong_model(
    random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that does not match is refused before anything is transcribed with it."""
    module = converter()
    manifest = tmp_path / "mine.tsv"
    manifest.write_text(f"path\ttranscript\n{SAMPLE}\tnobody says this\n")
    wrong = ParityReport(
        "x", "f32", 1e-4, (StageError("conv", 1.0, 1.0, 1e-4, False),), 0, 0, (), False
    )
    monkeypatch.setattr(module, "_verify", lambda *_: wrong)
    monkeypatch.setattr(module, "calibrate", lambda *_: pytest.fail("it was used"))
    with pytest.raises(VerificationError):
        convert(random_checkpoint, tmp_path / "out", ConvertOptions(calibrate=manifest))


def test_a_flipped_bit_in_compiled_code_is_told_before_it_runs(
    random_artifact: Path, tmp_path: Path
) -> None:
    import shutil

    from mwc.runtime import load

    copy = tmp_path / "copy"
    shutil.copytree(random_artifact, copy)
    mef = next(copy.rglob("*.mef"))
    data = bytearray(mef.read_bytes())
    data[len(data) // 2] ^= 1
    mef.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=r"SHA-256.*convert"):
        load(copy)


def test_a_damaged_tokenizer_is_told_when_it_is_loaded(
    random_artifact: Path, tmp_path: Path
) -> None:
    """Of the same size and as good to read: it would only give other words."""
    import shutil

    from mwc.runtime import load

    copy = tmp_path / "copy"
    shutil.copytree(random_artifact, copy)
    vocabulary = copy / "tokenizer" / "vocab.tiktoken"
    first, second, *rest = (line.split() for line in vocabulary.read_text().splitlines())
    swapped = [[second[0], first[1]], [first[0], second[1]], *rest]
    vocabulary.write_text("".join(f"{token} {rank}\n" for token, rank in swapped))
    with pytest.raises(ArtifactError, match=r"vocab\.tiktoken does not have the SHA-256"):
        load(copy)
