"""Options: one form for every value, and a sentence for everything that cannot be done."""

import inspect
from typing import Any

import pytest
from fake_decoder import fake_spec

from mwc.runtime.errors import OptionError
from mwc.runtime.languages import CODE_OF_LANGUAGE, NAME_OF_LANGUAGE
from mwc.runtime.options import TranscribeOptions, check_for_model, make_options
from mwc.runtime.words import APPEND_PUNCTUATIONS


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("language", "de", "de"),
        ("language", " German", "de"),
        ("language", "CASTILIAN", "es"),
        ("language", None, None),
        ("task", "translate", "translate"),
        ("temperature", 0, (0.0,)),
        ("temperature", [0.0], (0.0,)),
        ("no_speech_threshold", None, None),
        ("no_speech_threshold", "0.5", 0.5),
        ("logprob_threshold", -2, -2.0),
        ("compression_ratio_threshold", None, None),
        ("suppress_tokens", "-1", (-1,)),
        ("suppress_tokens", "1,2", (1, 2)),
        ("suppress_tokens", "", ()),
        ("suppress_tokens", None, ()),
        ("suppress_tokens", [5, -1], (5, -1)),
        ("max_initial_timestamp", 0, 0.0),
        ("sample_len", 10, 10),
        ("clip_timestamps", "0", (0.0,)),
        ("clip_timestamps", "", ()),
        ("clip_timestamps", "1.5,2,3", (1.5, 2.0, 3.0)),
        ("clip_timestamps", [1, 2], (1.0, 2.0)),
        ("initial_prompt", "Hello", "Hello"),
        ("word_timestamps", True, True),
        ("append_punctuations", APPEND_PUNCTUATIONS, APPEND_PUNCTUATIONS),
        ("hallucination_silence_threshold", None, None),
    ],
)
def test_values_come_to_one_form(name: str, value: Any, expected: Any) -> None:
    assert getattr(make_options(**{name: value}), name) == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("language", 7, "language is 7; it takes text"),
        ("task", "summarise", "task is 'summarise'; it is either"),
        ("temperature", 0.2, "temperature is 0.2, but mwc 0.1 decodes greedily"),
        ("temperature", (0.0, 0.2), "greedily"),
        ("temperature", (), "greedily"),
        ("temperature", "hot", "it takes numbers"),
        ("temperature", None, "it takes numbers"),
        ("without_timestamps", "yes", "either True or False"),
        ("initial_prompt", ["a"], "it takes text"),
        ("carry_initial_prompt", True, "without an initial_prompt"),
        ("no_speech_threshold", "high", "it takes numbers"),
        ("no_speech_threshold", True, "it takes numbers"),
        ("logprob_threshold", float("nan"), "finite"),
        ("compression_ratio_threshold", 2.0, "only decides when to try a higher temperature"),
        ("suppress_tokens", "x", "separated by commas"),
        ("max_initial_timestamp", 31, "0 to 30 seconds"),
        ("sample_len", 0, "whole number from 1"),
        ("sample_len", True, "whole number from 1"),
        ("clip_timestamps", "5,2", "ascending"),
        ("clip_timestamps", "-1", "ascending"),
        ("clip_timestamps", "a,b", "it takes numbers"),
        ("beam_size", 5, "beam_size is 5, but mwc 0.1 decodes greedily"),
        ("best_of", 5, "greedily"),
        ("word_timestamps", "yes", "either True or False"),
        ("prepend_punctuations", "(", "give word_timestamps=True too"),
        ("prepend_punctuations", None, "every character a mark"),
        ("append_punctuations", ["."], "every character a mark"),
        ("hallucination_silence_threshold", 2.0, "give word_timestamps=True too"),
        ("hallucination_silence_threshold", -1, "seconds from 0"),
        ("vad_filter", True, "no voice activity filter"),
        ("hotwords", "mwc", "initial_prompt"),
        ("fp16", False, "precision is chosen when converting"),
        ("log_prob_threshold", -1.0, "logprob_threshold"),
        ("lanugage", "de", "did you mean 'language'?"),
        ("xyzzy", 1, "there are: language, task"),
    ],
)
def test_what_cannot_be_done_is_said(name: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        make_options(**{name: value})
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_options_made_directly_are_checked_too() -> None:
    assert TranscribeOptions(language="French").language == "fr"
    with pytest.raises(OptionError):
        TranscribeOptions(sample_len=-1)


def test_other_engines_neutral_values_change_nothing() -> None:
    given = {"beam_size": 1, "best_of": None, "word_timestamps": False, "vad_filter": False}
    assert make_options(**given) == TranscribeOptions()


def test_what_a_model_lacks_is_refused() -> None:
    multilingual, english = fake_spec(), fake_spec(languages=())
    check_for_model(make_options(language="french", task="translate"), multilingual)
    check_for_model(make_options(language="English"), english)
    with pytest.raises(OptionError, match="'nl'; this model knows en, de, fr"):
        check_for_model(make_options(language="Dutch"), multilingual)
    with pytest.raises(OptionError, match="'klingon'; this model knows"):
        check_for_model(make_options(language="Klingon"), multilingual)
    with pytest.raises(OptionError, match="English only"):
        check_for_model(make_options(language="de"), english)
    with pytest.raises(OptionError, match="only transcribe"):
        check_for_model(make_options(task="translate"), english)
    with pytest.raises(OptionError, match="holds 448 tokens"):
        check_for_model(make_options(sample_len=449), multilingual)
    check_for_model(make_options(sample_len=443, word_timestamps=True), multilingual)
    with pytest.raises(OptionError, match="with word_timestamps give at most 443"):
        check_for_model(make_options(sample_len=444, word_timestamps=True), multilingual)


def test_what_works_on_words_is_taken_with_them() -> None:
    given = {"append_punctuations": ".", "hallucination_silence_threshold": "1.5"}
    options = make_options(word_timestamps=True, prepend_punctuations="", **given)
    assert (options.prepend_punctuations, options.append_punctuations) == ("", ".")
    assert options.hallucination_silence_threshold == 1.5


def test_names_defaults_and_languages_are_openai_whispers() -> None:
    transcribe = pytest.importorskip("whisper.transcribe")
    decoding = pytest.importorskip("whisper.decoding")
    tokenizer = pytest.importorskip("whisper.tokenizer")
    theirs = {
        **{f: p.default for f, p in inspect.signature(transcribe.transcribe).parameters.items()},
        **vars(decoding.DecodingOptions()),
    }
    ours = vars(TranscribeOptions())
    assert set(ours) <= set(theirs)
    differing = {name for name in ours if ours[name] != theirs[name]}
    # One form for several spellings, and greedy decoding.
    assert differing == {"temperature", "suppress_tokens", "clip_timestamps"}
    assert make_options(suppress_tokens="-1", clip_timestamps="0") == TranscribeOptions()
    assert NAME_OF_LANGUAGE == tokenizer.LANGUAGES
    assert CODE_OF_LANGUAGE == tokenizer.TO_LANGUAGE_CODE
    for name in set(theirs) - set(ours) - {"model", "audio", "decode_options"}:
        with pytest.raises(OptionError, match=rf"^{name} is 'x', but .*; leave it out\.$"):
            make_options(**{name: "x"})
