"""The temperature ladder: when a window is decoded again, and with which search."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from decoding import transcribe
from fake_decoder import FakeDecoder, FakeFeatures, fake_spec, fake_tokenizer, noise, scripted

from mwc.runtime.decode import WindowResult
from mwc.runtime.engine import Engine
from mwc.runtime.fallback import why_refused, why_sparse
from mwc.runtime.options import make_options
from mwc.runtime.report import WindowReport

SPEC = fake_spec()
GOOD = WindowResult((65,), "A", -0.5, 0.1, 1.0, 0.0, -0.5)


@pytest.mark.parametrize(
    ("changes", "given", "can_stand"),
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
def test_what_can_stand(changes: dict[str, float], given: dict[str, Any], can_stand: bool) -> None:
    refused = why_refused(replace(GOOD, **changes), make_options(**given))
    assert (refused is None) is can_stand


def test_what_cannot_stand_is_told_with_its_value() -> None:
    options = make_options()
    improbable = replace(GOOD, avg_logprob=-1.234)
    assert why_refused(improbable, options) == "avg_logprob -1.23 is below -1"
    repetitive = replace(GOOD, compression_ratio=3.0)
    assert why_refused(repetitive, options) == "compression_ratio 3.00 is above 2.4"


@pytest.mark.parametrize(
    ("n_tokens", "seconds", "told"),
    [
        (0, 4.9, None),
        (9, 22.94, "9 tokens of text for 22.9 s of detected speech"),
        (7, 5.0, "7 tokens of text for 5.0 s of detected speech"),
        (8, 5.0, None),
        (90, 25.0, None),
    ],
)
def test_text_too_short_for_its_speech(n_tokens: int, seconds: float, told: str | None) -> None:
    assert why_sparse(n_tokens, seconds) == told


def decode(tmp_path: Path, logits: Any, **given: Any) -> tuple[WindowReport, FakeDecoder]:
    """The report of the only window of a file."""
    options = make_options(language="en", **given)
    tokenizer = fake_tokenizer(tmp_path, SPEC)
    decoder = FakeDecoder(SPEC, logits)
    features: Any = FakeFeatures(3000, SPEC.model.n_mels)
    return transcribe(Engine(decoder, tokenizer), features, options).windows[0], decoder


def test_plausible_text_is_decoded_once(tmp_path: Path) -> None:
    script = [SPEC.tokens.timestamp_begin, *b" Hello", SPEC.tokens.timestamp_begin + 1500]
    report, decoder = decode(tmp_path, scripted(SPEC, lambda window: script))
    (attempt,) = report.attempts
    assert (attempt.temperature, attempt.refused) == (0.0, None)
    assert len(decoder.prompts) == 1


def test_the_last_temperature_stands_where_none_is_plausible(tmp_path: Path) -> None:
    given = {"temperature": (0.0, 0.5, 1.0), "logprob_threshold": -0.01, "best_of": 3}
    report, decoder = decode(tmp_path, noise(SPEC), **given, no_speech_threshold=None)
    assert [attempt.temperature for attempt in report.attempts] == [0.0, 0.5, 1.0]
    assert all("is below -0.01" in (attempt.refused or "") for attempt in report.attempts)
    first = [window for window in decoder.encoded if window.start == 0]
    assert len(first) == 1  # what is decoded again is not encoded again
    assert len(decoder.prompts) % (1 + 3 + 3) == 0  # best_of is for temperatures above 0


def test_beams_are_for_temperature_0(tmp_path: Path) -> None:
    given = {"temperature": (0.0, 0.5), "logprob_threshold": -0.01, "beam_size": 4}
    report, decoder = decode(tmp_path, noise(SPEC), **given, no_speech_threshold=None)
    assert [attempt.temperature for attempt in report.attempts] == [0.0, 0.5]
    assert decoder.copies
    assert max(decoder.batch_sizes) == 4
    assert decoder.batch_sizes[-1] == 1


def test_repetition_is_escaped(tmp_path: Path) -> None:
    """Greedily the same text again and again; every sample is another one."""
    logits = scripted(SPEC, lambda window: b" ha" * 60, certainty=5.0)
    given = {"without_timestamps": True, "suppress_blank": False, "logprob_threshold": None}
    stuck, _ = decode(tmp_path, logits, temperature=0.0, **given)
    assert stuck.attempts[0].compression_ratio > 10
    assert stuck.attempts[0].refused == (
        f"compression_ratio {stuck.attempts[0].compression_ratio:.2f} is above 2.4"
    )
    report, _ = decode(tmp_path, logits, **given)
    assert report.attempts[0] == stuck.attempts[0]
    assert report.attempts[-1].temperature > 0
    assert report.attempts[-1].refused is None
    again, _ = decode(tmp_path, logits, **given)
    assert again == report
