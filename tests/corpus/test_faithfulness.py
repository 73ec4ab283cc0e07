"""Whole transcripts beside openai/whisper's, from the same samples and weights.

benchmarks/faithfulness.py does the same over the whole corpus, with beams, a ladder of
temperatures and another model.
"""

from functools import partial

import pytest
from engines import GREEDY, Mwc, OpenaiWhisper, Options, Result
from segment_parity import Explain, compare_segments
from speech_corpus import Clip
from text_parity import first_difference
from weights import write_openai_file
from word_parity import word_times

from mwc.runtime import Model
from mwc.runtime.audio import read_samples

pytestmark = pytest.mark.corpus

SOME = (
    "short/misc/jfk.flac",
    "short/librispeech-test-other/3331-159605-0008.flac",
    "short/ljspeech/LJ001-0001.wav",
    "nonspeech/leopard_empty.wav",
    "long/sonnet001.mp3",
)
"""Among them the longest of the short ones, one without speech, and one of several windows."""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> OpenaiWhisper:
    """openai/whisper with the weights of tiny.en."""
    engine = OpenaiWhisper()
    path = tmp_path_factory.mktemp("openai") / "tiny.en.pt"
    engine.load(write_openai_file("pkg:tiny.en", path), threads=2)
    return engine


@pytest.fixture(scope="module")
def ours(tiny_en_model: Model) -> Mwc:
    """mwc with the same weights."""
    engine = Mwc()
    engine.model = tiny_en_model
    return engine


def transcripts(
    engine: Mwc | OpenaiWhisper, clips: list[Clip], names: tuple[str, ...], options: Options
) -> dict[str, Result]:
    """Transcripts by name, of the samples that mwc decodes."""
    return {
        clip.name: engine.transcribe(read_samples(clip.path), "en", True, options=options)
        for clip in clips
        if clip.name in names
    }


def test_segments_are_openai_whispers(ours: Mwc, theirs: OpenaiWhisper, clips: list[Clip]) -> None:
    """Text, start and end; a near tie may fall the other way, and then be followed."""
    mine = transcripts(ours, clips, SOME, GREEDY)
    other = transcripts(theirs, clips, SOME, GREEDY)
    samples = {clip.name: read_samples(clip.path) for clip in clips if clip.name in SOME}

    def explain(name: str) -> Explain:
        given = (theirs.model, samples[name], mine[name], other[name])
        return partial(first_difference, *given, "en", True)

    found = compare_segments(mine, other, explain)
    assert found.clips == len(SOME)
    assert found.theirs > 10
    assert [d for d in found.differences if d.cause != "margin"] == []
    assert found.share >= 0.9
    for clip in SOME:
        if clip not in {d.clip for d in found.differences}:
            pairs = zip(mine[clip].pieces, other[clip].pieces, strict=True)
            assert all(a.tokens == b.tokens and a.seek == b.seek for a, b in pairs)


def test_words_are_said_when_openai_whisper_says(
    ours: Mwc, theirs: OpenaiWhisper, clips: list[Clip]
) -> None:
    options = {"temperature": 0.0, "word_timestamps": True}
    names = SOME[:3]
    found = word_times(
        transcripts(ours, clips, names, options), transcripts(theirs, clips, names, options)
    )
    assert found.ours == found.theirs == len(found.differences) > 80
    assert found.median() <= 0.02
    assert found.percentile(95) <= 0.1
