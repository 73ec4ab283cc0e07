"""A model of every family's build converts and computes what transformers computes.

They are scaled down and random, but keep the family's mel bins, kind of vocabulary and unequal
stacks. Scaled down, families of one build are the same model: the first of each stands for all.
"""

import numpy as np
import pytest
from families import FAMILIES
from tiny_checkpoint import write_tiny_checkpoint
from tiny_model import speech_like

from mwc.compiler import ConvertResult, convert
from mwc.runtime import load

pytest.importorskip("transformers")


Build = tuple[int, str, tuple[int, int]]


def build_of(name: str) -> Build:
    """Mel bins, kind of vocabulary, and layers of the scaled-down stacks."""
    family = FAMILIES[name]
    return family.n_mels, family.vocab, family.small_layers


BUILDS = {build_of(name): name for name in reversed(FAMILIES)}
"""Each build, and the first family that has it."""


@pytest.fixture(scope="module", params=BUILDS.values())
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ConvertResult:
    family = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    encoder_layers, decoder_layers = family.small_layers
    checkpoint = write_tiny_checkpoint(
        folder / "checkpoint",
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        n_mels=family.n_mels,
        vocab=family.vocab,
        seed=list(FAMILIES).index(request.param),
    )
    return convert(checkpoint, folder / "artifact")


def test_it_computes_what_transformers_computes(converted: ConvertResult) -> None:
    report = converted.report
    assert report is not None
    assert report.ok
    assert "transformers" in report.reference
    assert report.tokens_compared > 20  # random weights decide where they end
    model = load(converted.artifact).spec.model
    names = [stage.name for stage in report.stages]
    assert sum(name.startswith("encoder.layers") for name in names) == model.n_audio_layer
    assert sum(name.startswith("cross_kv") for name in names) == model.n_text_layer
    assert all(stage.max_rel <= 1e-4 for stage in report.stages)


def test_it_transcribes(converted: ConvertResult) -> None:
    model = load(converted.artifact)
    language = "en" if model.spec.tokens.is_multilingual else None
    transcript = model.transcribe(speech_like(3.0), language=language)
    assert transcript.language == "en"
    assert transcript.duration == pytest.approx(3.0)
    assert all(0 <= s.start <= s.end for s in transcript.segments)
    if model.spec.tokens.is_multilingual:
        detected = model.detect_language(speech_like(3.0))
        probabilities = np.array(list(detected.probabilities.values()))
        assert len(probabilities) == len(model.spec.tokens.languages)
        assert probabilities.sum() == pytest.approx(1.0, abs=1e-4)


def test_every_build_is_here() -> None:
    """80 and 128 mel bins, three vocabularies, decoders as deep as the encoders and shallower."""
    kinds = {(n_mels, vocab, layers[0] > layers[1]) for n_mels, vocab, layers in BUILDS}
    assert kinds == {
        (80, "multilingual", False),
        (80, "multilingual", True),
        (80, "en", False),
        (80, "en", True),
        (128, "v3", False),
        (128, "v3", True),
    }
    assert {build_of(name) for name in FAMILIES} == set(BUILDS)
