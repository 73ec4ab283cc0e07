"""The graphs that GPUs run, run on a CPU: all that is theirs but the kernels themselves.

Their layers are put together in other ways than a CPU's, in the weights' own dtype. Here they are
compiled with stand-ins for the kernels (gpu_on_cpu/), converted and verified like any artifact.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_model import speech_like

from mwc.compiler import ConvertOptions, ConvertResult, compile, convert
from mwc.compiler.weight_rules import DRAFT
from mwc.runtime import Transcript, load
from mwc.runtime.artifact import open_artifact
from mwc.runtime.child import child_command

pytest.importorskip("transformers")

CHILD = Path(__file__).parent / "gpu_on_cpu" / "compile_child.py"


@pytest.fixture(scope="module", params=["f32", "bf16"])
def converted(
    request: pytest.FixtureRequest,
    random_checkpoint: Path,
    float16_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> ConvertResult:
    """A random checkpoint, as a GPU would run it."""
    checkpoint = float16_checkpoint if request.param == "f32" else random_checkpoint
    start = subprocess.Popen

    def start_ours(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        assert command[:4] == child_command("mwc.compiler.compile_child")
        return start([sys.executable, str(CHILD), *command[4:]], **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compile.subprocess, "Popen", start_ours)
        out = tmp_path_factory.mktemp(f"gpu-{request.param}") / "artifact"
        return convert(checkpoint, out, ConvertOptions(precision=request.param))


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


def times_of(transcript: Transcript) -> list[tuple[str, float, float]]:
    words = [word for segment in transcript.segments for word in segment.words or ()]
    return [(word.word, word.start, word.end) for word in words]


def test_matrices_are_in_the_dtypes_that_the_checkpoint_allows(converted: ConvertResult) -> None:
    (weights,) = open_artifact(converted.artifact).manifest.weights
    matrices = [tensor for tensor in weights.tensors if tensor.name.endswith("_proj.weight")]
    dtypes = {tensor.dtype for tensor in matrices if not tensor.name.startswith(DRAFT)}
    assert dtypes == ({"float16", "float32"} if weights.precision == "f32" else {"bfloat16"})


def test_it_decodes_what_the_cpus_graphs_decode(
    converted: ConvertResult, float16_converted: ConvertResult
) -> None:
    model = load(converted.artifact)
    audio = speech_like(35.0, 3)
    options: dict[str, Any] = {"language": "en", "temperature": 0.0, "sample_len": 24}
    ours = model.transcribe(audio, word_timestamps=True, **options)
    assert any(segment.words for segment in ours.segments)
    assert converted.report is not None
    if converted.report.precision == "f32":
        on_cpu = load(float16_converted.artifact)
        theirs = on_cpu.transcribe(audio, word_timestamps=True, **options)
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
