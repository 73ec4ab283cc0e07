"""A model of every family's build converts and computes what transformers computes.

They are scaled down and random, but keep the family's mel bins, kind of vocabulary and unequal
stacks, and families that are alike in these are the same model then. Of the six models that this
leaves four are converted: each takes minutes to compile.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from families import FAMILIES, IN_FLOAT16, family_checkpoint
from tiny_model import speech_like

from mwc.compiler import ConvertResult, convert
from mwc.runtime import load
from mwc.runtime.artifact import open_artifact

pytest.importorskip("transformers")


CONVERTED = ("tiny", "distil-small.en", "large-v3", "large-v3-turbo")
"""Families that have among them all mel bins, vocabularies and kinds of stacks. Left out: unequal
stacks with the vocabulary before v3, which are distil-large-v2's, and equal ones with the English
vocabulary, which the real tiny.en has, in other tests."""


def test_the_families_converted_have_what_all_have() -> None:
    def traits(names: Iterable[str]) -> set[object]:
        families = [FAMILIES[name] for name in names]
        return {
            each
            for family in families
            for each in (
                (family.n_mels, family.vocab),
                (family.n_mels, family.small_layers),
                (family.vocab, family.small_layers),
            )
        }

    left_out = traits(FAMILIES) - traits(CONVERTED)
    assert left_out == {("en", (2, 2)), ("multilingual", (3, 1))}


@pytest.fixture(scope="module", params=CONVERTED)
def converted(
    request: pytest.FixtureRequest,
    take: Callable[[str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> ConvertResult:
    if request.param in IN_FLOAT16:
        shared: ConvertResult = request.getfixturevalue("float16_converted")
        return shared
    take(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    return convert(family_checkpoint(request.param, folder / "checkpoint"), folder / "artifact")


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


def test_matrices_of_float16_stay_in_it(
    converted: ConvertResult, request: pytest.FixtureRequest
) -> None:
    (weights,) = open_artifact(converted.artifact).manifest.weights
    halves = {tensor.name for tensor in weights.tensors if tensor.dtype == "float16"}
    if request.node.callspec.params["converted"] not in IN_FLOAT16:
        assert not halves
        return
    assert "decoder.embed_tokens.weight" in halves
    assert {f"{part}.layers.1.fc2.weight" for part in ("encoder", "decoder")} <= halves
    assert weights.item_bytes("decoder.embed_tokens") == 2


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
