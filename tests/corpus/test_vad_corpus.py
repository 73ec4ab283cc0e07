"""The speech detector on real recordings: it hears the speech, and hardly anything else."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from numpy_vad import alone, onnx_vad
from speech_corpus import Clip

from mwc.runtime.audio import open_audio, read_samples
from mwc.runtime.session import Session
from mwc.runtime.vad import SpeechDetector, VadOptions, speech_segments

pytestmark = pytest.mark.corpus

Float32 = npt.NDArray[np.float32]

SHORT_PAUSES = VadOptions(min_silence_duration_ms=160, speech_pad_ms=100)


def probabilities_of(session: Session, path: Path) -> tuple[Float32, int]:
    detector = SpeechDetector(alone(session.vad))
    for block in open_audio(path).blocks():
        detector.add(block)
    return detector.finish(), detector.n_samples


@pytest.fixture(scope="module")
def synthetic(session: Session, audio_dir: Path) -> tuple[Float32, int]:
    """The long recording: 69 utterances with 0.3 to 1.5 s of digital silence between them."""
    return probabilities_of(session, audio_dir / "long" / "synthetic.flac")


def accuracy(
    audio_dir: Path, probabilities: Float32, n_samples: int, options: VadOptions
) -> tuple[float, float]:
    """Precision and recall of frames whose middle lies in an utterance (pauses in it count)."""
    middles = 512 * np.arange(len(probabilities)) + 256
    found, said = np.zeros((2, len(middles)), bool)
    for segment in speech_segments(probabilities, options, n_samples):
        found |= (middles >= segment.start) & (middles < segment.end)
    text = (audio_dir / "long" / "synthetic.segments.json").read_text(encoding="utf-8")
    for utterance in json.loads(text):
        said |= (middles >= 16000 * utterance["start"]) & (middles < 16000 * utterance["end"])
    both = (found & said).sum()
    return float(both / found.sum()), float(both / said.sum())


def test_defaults_hardly_lose_speech(audio_dir: Path, synthetic: tuple[Float32, int]) -> None:
    """Measured: precision 0.909, recall 0.996 (F1 0.950); shorter pauses stay in on purpose."""
    precision, recall = accuracy(audio_dir, *synthetic, VadOptions())
    assert recall >= 0.99
    assert precision >= 0.90


def test_short_pauses_leave_the_silence_out(
    audio_dir: Path, synthetic: tuple[Float32, int]
) -> None:
    """Measured: precision 0.994, recall 0.869 (F1 0.927); what is lost are pauses in utterances."""
    precision, recall = accuracy(audio_dir, *synthetic, SHORT_PAUSES)
    assert precision >= 0.99
    assert recall >= 0.86


def test_a_long_recording_is_heard_as_onnxruntime_hears_it(
    audio_dir: Path, synthetic: tuple[Float32, int]
) -> None:
    """Measured: 3e-6 over 16372 frames; a state that drifted would show."""
    pytest.importorskip("onnxruntime")
    probabilities, _ = synthetic
    theirs = onnx_vad(read_samples(audio_dir / "long" / "synthetic.flac"))
    assert len(probabilities) == len(theirs) > 16000
    assert np.abs(probabilities - theirs).max() <= 1e-4


def test_nothing_is_speech_where_nobody_speaks(session: Session, clips: list[Clip]) -> None:
    """By Silero's own settings; one clip of noise reaches 0.55 for a moment."""
    options = VadOptions(min_speech_duration_ms=250, min_silence_duration_ms=100, speech_pad_ms=30)
    quiet = [clip for clip in clips if clip.group == "nonspeech"]
    assert quiet
    for clip in quiet:
        probabilities, n_samples = probabilities_of(session, clip.path)
        assert speech_segments(probabilities, options, n_samples) == (), clip.name
        assert (probabilities >= 0.5).sum() <= 4, clip.name
