"""The compiled speech detector, in an artifact, against Silero's own file run by onnxruntime."""

from pathlib import Path

import numpy as np
import pytest
from numpy_vad import alone, frames_of, numpy_vad, onnx_vad
from tiny_model import speech_like

from mwc.compiler.vad_weights import DETECTOR_RULES, NAME, SHA256, VERSION
from mwc.runtime.artifact import map_weights, open_artifact
from mwc.runtime.audio import read_samples
from mwc.runtime.session import Session
from mwc.runtime.vad import SpeechDetector

SAMPLE = Path(__file__).resolve().parent.parent.parent / "compiler" / "data" / "sample.flac"

TOLERANCE = 1e-4
"""Largest difference of two probabilities of a frame."""


def detected(session: Session, blocks: list[np.ndarray]) -> np.ndarray:
    detector = SpeechDetector(alone(session.vad))
    for block in blocks:
        detector.add(block)
    return detector.finish()


def test_artifact_names_its_detector_and_holds_its_weights(random_artifact: Path) -> None:
    artifact = open_artifact(random_artifact)
    detector = artifact.manifest.detector
    assert (detector.name, detector.version, detector.sha256) == (NAME, VERSION, SHA256)
    weights = map_weights(artifact, "f32")
    for name, rule in DETECTOR_RULES.items():
        assert weights[name].dtype == np.float32
        assert np.array_equal(weights[name], rule.read())


@pytest.mark.parametrize("loudness", [0.0, 0.01, 1.0])
def test_probabilities_are_onnxruntimes(session: Session, loudness: float) -> None:
    pytest.importorskip("onnxruntime")
    noise = np.random.default_rng(1).standard_normal(16000).astype(np.float32) / 4
    samples = loudness * np.concatenate([speech_like(5.3), noise, speech_like(2.0)])
    ours = detected(session, [samples])
    np.testing.assert_allclose(ours, onnx_vad(samples), atol=TOLERANCE)


def test_speech_is_heard_as_onnxruntime_hears_it(session: Session) -> None:
    pytest.importorskip("onnxruntime")
    speech = read_samples(SAMPLE)
    samples = np.concatenate([speech, np.zeros(40000, np.float32)])
    ours, theirs = detected(session, [samples]), onnx_vad(samples)
    assert theirs.max() > 0.99
    assert theirs[-20:].max() < 0.1
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_one_call_is_numpys_with_any_state(session: Session) -> None:
    rng = np.random.default_rng(2)
    samples = frames_of(speech_like(1.7, seed=3))
    state = rng.standard_normal((2, 128)).astype(np.float32)
    ours, our_state = alone(session.vad)(samples, state)
    exact, exact_state = numpy_vad(samples, state)
    np.testing.assert_allclose(ours, exact, atol=TOLERANCE)
    np.testing.assert_allclose(our_state, exact_state, atol=TOLERANCE)


def test_blocks_of_any_size_give_the_same_bits(session: Session) -> None:
    samples = speech_like(40.0)
    whole = detected(session, [samples])
    sizes = np.random.default_rng(4).choice([1, 63, 511, 512, 513, 7000, 90001], 4000)
    blocks = [part for part in np.split(samples, np.cumsum(sizes)) if len(part)]
    assert len(blocks) > 10
    assert np.array_equal(detected(session, blocks), whole)


def test_files_heard_together_are_as_each_alone(session: Session) -> None:
    files = [frames_of(speech_like(seconds)) for seconds in (16.0, 0.03, 3.3)]
    states = np.random.default_rng(5).standard_normal((3, 2, 128)).astype(np.float32)
    counts = np.array([len(frames) for frames in files], np.int32)
    together, after = session.vad(np.concatenate(files), states, counts)
    heard = [alone(session.vad)(*each) for each in zip(files, states, strict=True)]
    assert np.array_equal(together, np.concatenate([each[0] for each in heard]))
    assert np.array_equal(after, np.stack([each[1] for each in heard]))


@pytest.mark.parametrize(
    ("width", "state", "message"),
    [
        (512, (1, 2, 128), "samples has shape"),
        (576, (2, 128), "state has shape"),
        (576, (1, 2, 1, 128), "state has shape"),
        (576, (2, 2, 128), "counts has shape"),
    ],
)
def test_wrong_shapes_are_refused(
    session: Session, width: int, state: tuple[int, ...], message: str
) -> None:
    samples, states = np.zeros((3, width), np.float32), np.zeros(state, np.float32)
    with pytest.raises(ValueError, match=message):
        session.vad(samples, states, np.array([3], np.int32))


def test_counts_that_are_not_the_frames_are_refused(session: Session) -> None:
    states = np.zeros((2, 2, 128), np.float32)
    with pytest.raises(ValueError, match=r"counts \[2, 2\] do not share out 3 frames"):
        session.vad(np.zeros((3, 576), np.float32), states, np.array([2, 2], np.int32))
