"""The graphs that GPUs run, run on a CPU: all that is theirs but the kernels themselves.

Their layers are put together in other ways than a CPU's, in the weights' own dtype. Here they are
compiled with stand-ins for the kernels (gpu_on_cpu/), converted and verified like any artifact.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import write_tiny_checkpoint
from tiny_model import speech_like

from mwc.compiler import ConvertOptions, ConvertResult, compile, convert
from mwc.runtime import Model, Transcript, load
from mwc.runtime.artifact import open_artifact

pytest.importorskip("transformers")

CHILD = Path(__file__).parent / "gpu_on_cpu" / "compile_child.py"


OF_HALVES = "f32 of float16"
"""A float32 model most of whose matrices are stored in float16, which it is trained in."""


@pytest.fixture(scope="module", params=["f32", "bf16", OF_HALVES])
def converted(
    request: pytest.FixtureRequest,
    random_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> ConvertResult:
    """The random checkpoint, as a GPU would run it."""
    checkpoint, precision = random_checkpoint, request.param
    if request.param == OF_HALVES:
        folder = tmp_path_factory.mktemp("halves")
        checkpoint, precision = write_tiny_checkpoint(folder, dtype="float16"), "f32"
    start = subprocess.Popen

    def start_ours(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        assert command[:3] == [sys.executable, "-m", "mwc.compiler.compile_child"]
        return start([sys.executable, str(CHILD), *command[3:]], **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compile.subprocess, "Popen", start_ours)
        out = tmp_path_factory.mktemp("gpu") / "artifact"
        return convert(checkpoint, out, ConvertOptions(precision=precision))


def test_every_stage_is_within_its_bound_and_tokens_are_the_references(
    converted: ConvertResult,
) -> None:
    report = converted.report
    assert report is not None
    assert report.ok
    stages = {stage.name: stage for stage in report.stages}
    assert {"conv", "encoder.layers.1", "encoder", "cross_kv.layers.1", "step logits"} <= set(
        stages
    )
    assert all(stage.ok for stage in report.stages)
    # Computed in the weights' dtype, not only stored in it.
    in_bf16 = report.precision == "bf16"
    assert (stages["encoder.layers.0"].max_rel > 1e-3) == in_bf16
    assert stages["log_mel"].max_rel < 1e-4


def test_matrices_are_stored_as_the_checkpoint_has_them(
    converted: ConvertResult, request: pytest.FixtureRequest
) -> None:
    (weights,) = open_artifact(converted.artifact).manifest.weights
    of_halves = request.node.callspec.params["converted"] == OF_HALVES
    assert any(tensor.dtype == "float16" for tensor in weights.tensors) == of_halves


def times_of(transcript: Transcript) -> list[tuple[str, float, float]]:
    words = [word for segment in transcript.segments for word in segment.words or ()]
    return [(word.word, word.start, word.end) for word in words]


def test_it_decodes_what_the_cpus_graphs_decode(
    converted: ConvertResult, random_model: Model, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["converted"] == OF_HALVES:
        pytest.skip("its weights are not the other model's")
    model = load(converted.artifact)
    audio = speech_like(35.0, 3)
    options: dict[str, Any] = {"language": "en", "temperature": 0.0, "sample_len": 24}
    ours = model.transcribe(audio, word_timestamps=True, **options)
    theirs = random_model.transcribe(audio, word_timestamps=True, **options)
    assert ours.segments[0].words
    assert converted.report is not None
    if converted.report.precision == "f32":
        assert [s.tokens for s in ours.segments] == [s.tokens for s in theirs.segments]
        assert times_of(ours) == times_of(theirs)


def test_a_row_is_the_same_in_any_company(converted: ConvertResult) -> None:
    model = load(converted.artifact)
    clips = [speech_like(seconds, seed) for seed, seconds in enumerate((3.0, 12.0, 7.0))]
    options: dict[str, Any] = {"language": "en", "temperature": 0.0, "sample_len": 16}
    together = list(model.transcribe_many(clips, batch_size=3, **options))
    alone = [model.transcribe(clip, batch_size=3, **options) for clip in clips]
    assert together == alone
    beams = model.transcribe(clips[1], beam_size=3, **options)
    assert beams.segments
