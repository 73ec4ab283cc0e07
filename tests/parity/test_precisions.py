"""bf16, f16 and int8 artifacts: fewer bytes, within their bounds of transformers, in use."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoding import steps_one_by_one
from tiny_model import speech_like

from mwc.compiler import ConvertOptions, ConvertResult, convert, verify_artifact
from mwc.compiler.convert import SAMPLE
from mwc.compiler.parity import bounds_of
from mwc.runtime import load
from mwc.runtime.artifact import map_weights, open_artifact
from mwc.runtime.decoder import STEPS_UNTIL_END, StepBatch
from mwc.runtime.rules import feed, rule_state, suppress_mask
from mwc.runtime.session import Session

pytest.importorskip("transformers")

CACHES = {
    "bf16": ("bfloat16", "bfloat16", "bfloat16"),
    "f16": ("float16", "float16", "float16"),
    "int8": ("int8", "float16", "uint8"),
}
"""As the manifest calls them, and the dtypes of the self- and the cross-attention's."""
SIZES = {"bf16": 0.65, "f16": 0.65, "int8": 0.5}
"""At most this part of the weights in float32, log-mel and position tables included."""
LOGPROBS = {"bf16": 0.02, "f16": 0.02, "int8": 0.05}
TIMES = {"bf16": 1e-9, "f16": 1e-9, "int8": 0.1}
"""Seconds; a timestamp is 20 ms, and the next one is often nearly as likely."""
F32_ERROR = 1e-4


@dataclass(frozen=True)
class Reduced:
    """A model at one of the precisions: `tiny.en`, or random weights."""

    precision: str
    source: str
    checkpoint: str | Path
    converted: ConvertResult
    full: Path
    """The same model in float32."""

    @property
    def artifact(self) -> Path:
        return self.converted.artifact


KINDS = [("bf16", "tiny.en"), ("f16", "random"), ("int8", "tiny.en")]
"""One of each precision: they take minutes to compile."""


@pytest.fixture(scope="module", params=KINDS, ids=["-".join(kind) for kind in KINDS])
def reduced(
    request: pytest.FixtureRequest,
    take: Callable[[str], None],
    random_checkpoint: Path,
    tmp_path_factory: Any,
) -> Reduced:
    precision, source = request.param
    full = request.getfixturevalue("tiny_en_artifact" if source == "tiny.en" else "random_artifact")
    take(f"{source}-{precision}")
    out = tmp_path_factory.mktemp(f"{source}-{precision}") / "artifact"
    checkpoint = "pkg:tiny.en" if source == "tiny.en" else random_checkpoint
    converted = convert(checkpoint, out, ConvertOptions(precision=precision))
    return Reduced(precision, source, checkpoint, converted, full)


def model_weights(artifact: Path, precision: str) -> list[np.ndarray]:
    """The model's weights; the speech detector's are float32 in every artifact."""
    mapped = map_weights(open_artifact(artifact), precision)
    return [value for name, value in mapped.items() if not name.startswith("vad.")]


def test_it_is_within_its_bounds(reduced: Reduced) -> None:
    report = reduced.converted.report
    assert report is not None
    assert report.ok
    assert report.precision == reduced.precision
    stages = {stage.name: stage.max_rel for stage in report.stages}
    assert stages["log_mel"] < F32_ERROR  # the log-mel's own constants stay float32
    assert F32_ERROR < stages["step logits"] < bounds_of(reduced.precision).logits


def test_weights_and_caches_take_fewer_bytes(reduced: Reduced) -> None:
    size = sum(value.nbytes for value in model_weights(reduced.artifact, reduced.precision))
    in_float32 = sum(4 * value.size for value in model_weights(reduced.full, "f32"))
    assert size < SIZES[reduced.precision] * in_float32
    target = load(reduced.artifact).session.target
    kv_dtype, text, audio = CACHES[reduced.precision]
    assert (target.precision, target.kv_dtype) == (reduced.precision, kv_dtype)
    graphs = {graph.name: graph for graph in target.graphs}
    dtypes = {spec.name: spec.dtype for spec in graphs["step"].inputs if spec.mutable}
    assert dtypes == {"self_k": text, "self_v": text, "cross_k": audio, "cross_v": audio}


def test_it_transcribes(reduced: Reduced) -> None:
    model = load(reduced.artifact)
    transcript = model.transcribe(speech_like(3.0), language="en")
    assert transcript.segments
    assert np.isfinite([segment.avg_logprob for segment in transcript.segments]).all()


def test_an_artifact_verifies_again(reduced: Reduced) -> None:
    report = verify_artifact(reduced.artifact, reduced.checkpoint)
    assert report.ok
    assert report.precision == reduced.precision


def test_it_hears_what_float32_hears(reduced: Reduced) -> None:
    precision = reduced.precision
    if reduced.source == "random":  # its words are noise: only that it gives some can be asked
        assert load(reduced.artifact).transcribe(SAMPLE, language="en").segments
        return
    ours, full = (load(path).transcribe(SAMPLE) for path in (reduced.artifact, reduced.full))
    assert ours.text == full.text
    for segment, expected in zip(ours.segments, full.segments, strict=True):
        assert segment.text == expected.text
        assert segment.start == pytest.approx(expected.start, abs=TIMES[precision])
        assert segment.end == pytest.approx(expected.end, abs=TIMES[precision])
        assert segment.avg_logprob == pytest.approx(expected.avg_logprob, abs=LOGPROBS[precision])


def test_steps_end_with_their_rows(reduced: Reduced) -> None:
    """A row ends with its eot, in int8 the call with it: nothing more is computed, nor stored."""
    several, single, alone = (
        Session(open_artifact(reduced.artifact), n_windows=1, n_rows=2) for _ in range(3)
    )
    tokens = several.spec.tokens
    of_first, of_others = np.full((2, several.spec.model.n_vocab), -np.inf, np.float32)
    of_first[tokens.eot] = 0
    of_others[:] = 0
    states = [rule_state(sampled, False, tokens, None) for sampled in ([], [11])]
    batch = StepBatch(
        tokens=np.array([10, 11], np.int32),
        rows=np.array([0, 1], np.int32),
        positions=np.array([5, 9], np.int32),
        windows=np.array([0, 0], np.int32),
        rule_states=np.array(states, np.int32),
    )
    everything_ends = np.stack([of_first, of_first])
    ended = several.steps(batch, everything_ends)
    assert ended.lengths is not None
    assert ended.lengths.tolist() == [1, 1]
    if reduced.precision == "int8":
        single.step(batch, everything_ends)
        assert np.all(ended.candidates == tokens.eot)
        assert not ended.candidate_logprobs[:, 1:].any()
        ours, theirs = (session.caller.host_caches("steps") for session in (several, single))
        assert ours["self_k"].any()
        for name in ("self_k", "self_v"):
            assert np.array_equal(ours[name], theirs[name])

    first_ends = np.stack([of_others, of_first])
    both = several.steps(batch, first_ends)
    second = StepBatch(
        batch.tokens[1:],
        batch.rows[1:],
        batch.positions[1:],
        batch.windows[1:],
        batch.rule_states[1:],
    )
    one = alone.steps(second, first_ends)
    assert both.length(0) == 1
    assert one.length(0) > 1
    count = both.length(1)
    assert count == (1 if reduced.precision == "int8" else one.length(0))
    assert np.array_equal(both.candidates[1, :count], one.candidates[0, :count])
    assert np.array_equal(both.candidate_logprobs[1, :count], one.candidate_logprobs[0, :count])


@pytest.mark.parametrize("timed", [True, False])
def test_many_steps_are_single_ones(reduced: Reduced, timed: bool) -> None:
    """Rows of two windows: tokens, bit for bit, and caches; in int8 until one of them ends."""
    rows = np.arange(5, dtype=np.int32)
    several, single = (
        Session(open_artifact(reduced.artifact), n_windows=2, n_rows=len(rows)) for _ in range(2)
    )
    tokens = several.spec.tokens
    masks = suppress_mask(several.spec, with_timestamps=timed)
    states = [rule_state([10 + row], timed, tokens, None) for row in rows]
    batch = StepBatch(
        tokens=10 + rows,
        rows=rows,
        positions=4 + 3 * rows,
        windows=rows // 3,
        rule_states=np.array(states, np.int32),
    )
    kinds = set()
    for _ in range(6):
        ours = several.steps(batch, masks)
        taken = ours.candidates.shape[1]
        theirs = steps_one_by_one(single, batch, masks, taken)
        assert np.array_equal(ours.candidates, theirs.candidates)
        assert np.array_equal(ours.candidate_logprobs, theirs.candidate_logprobs)
        ended = ours.candidates == tokens.eot
        if reduced.precision == "int8":
            assert not ended[:, :-1].any()
            assert ended.any() or taken == STEPS_UNTIL_END
        kinds.add(bool(ended.any()))
        for name in ("self_k", "self_v"):
            caches = (session.caller.host_caches("steps")[name] for session in (several, single))
            assert np.array_equal(*caches)
        for column in ours.candidates.T:
            batch = feed(batch, column, tokens.timestamp_begin)
        if ended.any():
            batch = replace(batch, tokens=np.where(ended[:, -1], 11, batch.tokens).astype(np.int32))
    assert False in kinds
