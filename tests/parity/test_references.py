"""The two references agree with each other, and their parts with the originals."""

import math
import sys

import numpy as np
import pytest
from tiny_model import speech_like, tiny_model

from mwc.compiler.reference import open_reference
from mwc.compiler.reference_numpy import NumpyReference, erf, gelu, log_mel, mel_filters
from mwc.runtime.spec import AudioSpec


def relative(ours, theirs) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def samples(seconds: float = 6.0):
    clip = speech_like(seconds)
    return np.pad(clip, (0, 480000 - len(clip)))


def test_erf_is_exact_to_float32_rounding():
    x = np.concatenate([np.linspace(-7, 7, 40001), [0.0, 1e-20, -1e-6, 30.0, -30.0]])
    x = x.astype(np.float32)
    expected = np.array([math.erf(v) for v in x.tolist()])
    assert np.abs(erf(x) - expected).max() < 1.2e-7


def test_gelu_is_the_exact_one_and_keeps_the_shape():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(0, 3, (300, 500)).astype(np.float32)
    exact = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy()
    imitation = torch.nn.functional.gelu(torch.from_numpy(x).double(), approximate="tanh").numpy()
    assert np.abs(gelu(x) - exact).max() < 1e-6
    assert np.abs(gelu(x) - imitation).max() > 1e-4


@pytest.mark.parametrize("n_mels", [80, 128])
def test_mel_filters_are_those_of_transformers(n_mels):
    audio_utils = pytest.importorskip("transformers.audio_utils")
    theirs = audio_utils.mel_filter_bank(201, n_mels, 0.0, 8000.0, 16000, "slaney", "slaney")
    assert np.abs(mel_filters(n_mels, AudioSpec()) - theirs).max() < 1e-12


@pytest.mark.parametrize("n_mels", [80, 128])
def test_log_mel_is_that_of_openai_whisper(n_mels):
    whisper = pytest.importorskip("whisper")
    ours = log_mel(samples(), n_mels, AudioSpec())
    theirs = whisper.log_mel_spectrogram(samples(), n_mels).numpy().T
    assert ours.shape == (3000, n_mels)
    assert relative(ours, theirs) < 1e-4


@pytest.mark.parametrize(
    ("vocab", "n_mels", "heads", "layers"),
    [("multilingual", 80, 2, 2), ("en", 80, 1, 1), ("v3", 128, 3, 2)],
)
def test_numpy_and_transformers_agree_at_every_stage(vocab, n_mels, heads, layers):
    pytest.importorskip("transformers")
    from mwc.compiler.reference_torch import TorchReference

    model = tiny_model(vocab=vocab, n_mels=n_mels, heads=heads, layers=layers)
    ours = NumpyReference(model.tensors, model.spec)
    theirs = TorchReference(model.config, model.tensors, model.spec)
    assert ours.name == "numpy"
    assert theirs.name.startswith("transformers ")

    features = theirs.log_mel(samples())
    assert relative(ours.log_mel(samples()), features) < 1e-4

    trace, expected = ours.trace(features), theirs.trace(features)
    names = ["conv", *(f"encoder.layers.{i}" for i in range(layers)), "encoder"]
    assert list(trace) == names
    assert set(expected) == set(names)
    for name in names:
        assert trace[name].shape == (1500, 64 * heads)
        assert relative(trace[name], expected[name]) < 2e-5, name

    encoder_out = expected["encoder"]
    pairs = zip(ours.cross_kv(encoder_out), theirs.cross_kv(encoder_out), strict=True)
    for (key, value), (their_key, their_value) in pairs:
        assert key.shape == value.shape == (heads, 1500, 64)
        assert relative(key, their_key) < 2e-5
        assert relative(value, their_value) < 2e-5

    tokens = [model.spec.tokens.sot, *range(0, 600, 7)]
    logits = ours.logits(encoder_out, tokens)
    assert logits.shape == (len(tokens), model.spec.model.n_vocab)
    assert logits.dtype == np.float32
    assert relative(logits, theirs.logits(encoder_out, tokens)) < 2e-5


def test_logits_of_a_prefix_do_not_depend_on_what_follows():
    model = tiny_model()
    reference = NumpyReference(model.tensors, model.spec)
    encoder_out = np.random.default_rng(1).normal(size=(1500, 128)).astype(np.float32)
    long = reference.logits(encoder_out, [5, 6, 7, 8, 9])
    short = reference.logits(encoder_out, [5, 6, 7])
    assert relative(long[:3], short) < 1e-5


def test_transformers_refuses_a_missing_tensor():
    pytest.importorskip("transformers")
    from mwc.compiler.reference_torch import TorchReference

    model = tiny_model(layers=1)
    model.tensors.shapes.pop("decoder.layers.0.fc1.bias")
    with pytest.raises(RuntimeError, match=r"decoder\.layers\.0\.fc1\.bias"):
        TorchReference(model.config, model.tensors, model.spec)


def test_open_reference_prefers_transformers_and_can_do_without(monkeypatch):
    pytest.importorskip("transformers")
    model = tiny_model(layers=1)
    assert open_reference(model, model.spec).name.startswith("transformers ")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert open_reference(model, model.spec).name == "numpy"
