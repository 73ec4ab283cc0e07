"""The temperature ladder: when a window is decoded again, and with which search."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_decoder import FakeDecoder, FakeWindow, fake_spec, fake_tokenizer, noise, scripted

from mwc.runtime.decode import Task, WindowResult, make_prompt, sampling_for
from mwc.runtime.fallback import decode_with_fallback, is_plausible
from mwc.runtime.options import make_options

SPEC = fake_spec()
GOOD = WindowResult((65,), "A", -0.5, 0.1, 1.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "given", "plausible"),
    [
        ({}, {}, True),
        ({"compression_ratio": 2.41}, {}, False),
        ({"compression_ratio": 2.4}, {}, True),
        ({"compression_ratio": 9.0}, {"compression_ratio_threshold": None}, True),
        ({"compression_ratio": 2.0}, {"compression_ratio_threshold": 1.9}, False),
        ({"avg_logprob": -1.01}, {}, False),
        ({"avg_logprob": -1.0}, {}, True),
        ({"avg_logprob": -9.0}, {"logprob_threshold": None}, True),
        # Silence stands as it is, however it reads; but only where the text is improbable too.
        ({"avg_logprob": -2.0, "no_speech_prob": 0.61}, {}, True),
        ({"avg_logprob": -2.0, "no_speech_prob": 0.61, "compression_ratio": 9.0}, {}, True),
        ({"avg_logprob": -2.0, "no_speech_prob": 0.6}, {}, False),
        ({"compression_ratio": 9.0, "no_speech_prob": 0.9}, {}, False),
        ({"avg_logprob": -2.0, "no_speech_prob": 0.9}, {"no_speech_threshold": None}, False),
        (
            {"compression_ratio": 9.0, "avg_logprob": -2.0, "no_speech_prob": 0.9},
            {"logprob_threshold": None},
            False,
        ),
    ],
)
def test_what_is_plausible(
    changes: dict[str, float], given: dict[str, Any], plausible: bool
) -> None:
    assert is_plausible(replace(GOOD, **changes), make_options(**given)) is plausible


def decode(tmp_path: Path, logits: Any, **given: Any) -> tuple[WindowResult, FakeDecoder]:
    options = make_options(**given)
    tokenizer = fake_tokenizer(tmp_path, SPEC)
    decoder = FakeDecoder(SPEC, logits, n_rows=4)
    decoder.windows[0] = FakeWindow(0, 3000)
    task = Task(make_prompt(SPEC, tokenizer, options, "en"), 0)
    sampling = sampling_for(SPEC, options)
    return decode_with_fallback(decoder, tokenizer, task, sampling, options), decoder


def test_plausible_text_is_decoded_once(tmp_path: Path) -> None:
    script = [SPEC.tokens.timestamp_begin, *b" Hello"]
    result, decoder = decode(tmp_path, scripted(SPEC, lambda window: script))
    assert (result.text, result.temperature) == ("Hello", 0.0)
    assert len(decoder.prompts) == 1


def test_the_last_temperature_stands_where_none_is_plausible(tmp_path: Path) -> None:
    given = {"temperature": (0.0, 0.5, 1.0), "logprob_threshold": -0.01, "best_of": 3}
    result, decoder = decode(tmp_path, noise(SPEC), **given, no_speech_threshold=None)
    assert result.temperature == 1.0
    assert len(decoder.prompts) == 1 + 3 + 3  # best_of is for temperatures above 0


def test_beams_are_for_temperature_0(tmp_path: Path) -> None:
    given = {"temperature": (0.0, 0.5), "logprob_threshold": -0.01, "beam_size": 4}
    result, decoder = decode(tmp_path, noise(SPEC), **given, no_speech_threshold=None)
    assert result.temperature == 0.5
    assert decoder.copies
    assert len(decoder.prompts) == 2
    assert max(decoder.batch_sizes) == 4
    assert decoder.batch_sizes[-1] == 1


def test_repetition_is_escaped(tmp_path: Path) -> None:
    """Greedily the same text again and again; every sample is another one."""
    logits = scripted(SPEC, lambda window: b" ha" * 60, certainty=5.0)
    given = {"without_timestamps": True, "suppress_blank": False, "logprob_threshold": None}
    stuck, _ = decode(tmp_path, logits, temperature=0.0, **given)
    assert stuck.compression_ratio > 10
    result, _ = decode(tmp_path, logits, **given)
    assert result.temperature > 0
    assert result.compression_ratio <= 2.4
    again, _ = decode(tmp_path, logits, **given)
    assert again == result
