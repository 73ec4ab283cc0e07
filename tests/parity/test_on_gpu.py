"""What only a GPU can tell: its kernels, replayed steps, and memory that comes back.

They run where there is a GPU: tiny.en is converted for it, or MWC_TEST_GPU_ARTIFACT names an
artifact of tiny.en in bf16 that was compiled for it elsewhere.
"""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from numpy_vad import alone, frames_of, numpy_vad

from mwc.compiler import ConvertOptions, convert, verify_artifact
from mwc.runtime import Model, load
from mwc.runtime.artifact import open_artifact
from mwc.runtime.audio import read_samples
from mwc.runtime.bench_cases import POSITION, steps_call
from mwc.runtime.session import Session

SOURCE = "pkg:tiny.en"
SAMPLE = Path(__file__).parents[2] / "compiler" / "data" / "sample.flac"


def gpus() -> int:
    """How many GPUs there are; none if their driver does not answer."""
    from max.driver import accelerator_count

    try:
        return int(accelerator_count())
    except RuntimeError:
        return 0


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not gpus():
        pytest.skip("there is no GPU in this machine")
    given = os.environ.get("MWC_TEST_GPU_ARTIFACT")
    if given:
        return Path(given)
    out = tmp_path_factory.mktemp("gpu") / "tiny.en"
    return convert(SOURCE, out, ConvertOptions(precision="bf16", targets=("gpu",))).artifact


@pytest.fixture(scope="module")
def model(artifact: Path) -> Model:
    return load(artifact, device="gpu")


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return read_samples(SAMPLE)


def test_every_stage_is_the_checkpoints(artifact: Path) -> None:
    report = verify_artifact(artifact, SOURCE)
    assert report.ok, "\n".join(report.summary())
    assert any(target.startswith(("cuda", "hip")) for target in report.targets)


def test_speech_becomes_text_by_replayed_steps(model: Model, clip: np.ndarray) -> None:
    text = model.transcribe(clip, temperature=0.0).text
    assert "reads the whole model once" in text
    graphs = model.session.device_graphs
    assert graphs
    assert {str(key): graph.refusal for key, graph in graphs.items() if graph.refusal} == {}
    assert any(graph.is_captured for graph in graphs.values())


def test_a_clip_comes_out_the_same_in_any_company(model: Model, clip: np.ndarray) -> None:
    clips = [clip[start : start + 16_000 * 6] for start in range(0, 16_000 * 4, 8_000)]
    options = {"temperature": 0.0}
    alone = list(model.transcribe_many(clips, batch_size=2, **options))
    for batch_size, order in ((3, [5, 0, 7, 2, 6, 1, 3, 4]), (8, range(7, -1, -1))):
        company = model.transcribe_many([clips[i] for i in order], batch_size=batch_size, **options)
        for i, transcript in zip(order, company, strict=True):
            assert transcript == alone[i]


def test_beams_and_samples_run_there(model: Model, clip: np.ndarray) -> None:
    beams = model.transcribe(clip, beam_size=5, temperature=0.0)
    assert "reads the whole model once" in beams.text
    once, twice = (model.transcribe(clip, temperature=0.8, best_of=3, seed=5) for _ in range(2))
    assert once == twice


def test_word_times_are_in_order_and_within_the_clip(model: Model, clip: np.ndarray) -> None:
    transcript = model.transcribe(clip, temperature=0.0, word_timestamps=True)
    words = [word for segment in transcript.segments for word in segment.words or ()]
    times = [time for word in words for time in (word.start, word.end)]
    assert len(words) > 15
    assert times == sorted(times)
    assert times[-1] <= len(clip) / 16_000 + 0.5


def test_speech_is_detected_as_silero_does(model: Model, clip: np.ndarray) -> None:
    frames, state = frames_of(clip), np.zeros((2, 128), np.float32)
    probabilities, after = alone(model.session.vad)(frames, state)
    exact, exact_after = numpy_vad(frames, state)
    assert np.abs(probabilities - exact).max() < 1e-4
    assert np.abs(after - exact_after).max() < 1e-3


def test_files_are_heard_together_as_each_alone(model: Model, clip: np.ndarray) -> None:
    frames, rng = frames_of(clip), np.random.default_rng(0)
    counts = np.array([1, 300, 17, 2, 80], np.int32)
    states = rng.standard_normal((len(counts), 2, 128)).astype(np.float32)
    parts = [frames[i : i + count] for i, count in enumerate(counts.tolist())]
    together, after = model.session.vad(np.concatenate(parts), states, counts)
    heard = [alone(model.session.vad)(*each) for each in zip(parts, states, strict=True)]
    assert np.array_equal(together, np.concatenate([each[0] for each in heard]))
    assert np.array_equal(after, np.stack([each[1] for each in heard]))


def test_pieces_are_the_same_in_any_company(model: Model) -> None:
    pieces = np.random.default_rng(1).standard_normal((24, 160240), np.float32) / 10
    together = model.session.log_mel(pieces)
    for first, end in ((0, 3), (3, 4), (4, 6), (6, 24)):
        assert np.array_equal(model.session.log_mel(pieces[first:end]), together[first:end])


def free() -> int:
    """Bytes that the GPU has left."""
    from max.driver import Accelerator

    gc.collect()
    return int(Accelerator(0).stats["free_memory"])


def test_memory_comes_back_when_caches_grow(artifact: Path) -> None:
    def after(*sizes: int) -> int:
        session = Session(open_artifact(artifact), device="gpu")
        for rows in sizes:
            session.reserve(rows, rows)
            run = steps_call(session, rows, POSITION)
            for _ in range(3):  # executed, captured, replayed
                run()
        return free()

    after(8)
    assert abs(after(1, 2, 4, 8) - after(8)) < 64 << 20


def test_memory_comes_back_when_a_model_is_dropped(artifact: Path, clip: np.ndarray) -> None:
    def use() -> int:
        model = load(artifact, device="gpu")
        model.transcribe(clip, temperature=0.0)
        return free()

    use()
    before = free()
    within = use()
    assert within < before
    assert abs(free() - before) < 64 << 20
