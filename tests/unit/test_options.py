"""Options: one form for every value, and a sentence for everything that cannot be done."""

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_decoder import fake_spec

from mwc.runtime.errors import OptionError
from mwc.runtime.languages import CODE_OF_LANGUAGE, NAME_OF_LANGUAGE
from mwc.runtime.options import TranscribeOptions, check_for_model, make_options
from mwc.runtime.vad import VadOptions
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
        ("temperature", (0, 0.5, 1), (0.0, 0.5, 1.0)),
        ("temperature", np.float32(0.5), (0.5,)),
        ("temperature", np.int64(1), (1.0,)),
        ("temperature", np.array([0, 0.5]), (0.0, 0.5)),
        ("temperature", [np.float16(0.5), 1], (0.5, 1.0)),
        ("beam_size", 5, 5),
        ("beam_size", None, 1),
        ("best_of", 16, 16),
        ("best_of", None, 1),
        ("patience", None, 1.0),
        ("length_penalty", None, None),
        ("seed", 2**40, 2**40),
        ("compression_ratio_threshold", 2, 2.0),
        ("no_speech_threshold", None, None),
        ("no_speech_threshold", np.float32(0.5), 0.5),
        ("no_speech_threshold", np.array(0.5), 0.5),
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


def test_a_length_penalty_of_beams() -> None:
    assert make_options(length_penalty=0, beam_size=2).length_penalty == 0.0
    assert make_options(length_penalty=1, best_of=2).length_penalty == 1.0


def test_a_first_timestamp_needs_timestamps() -> None:
    assert make_options(without_timestamps=True, max_initial_timestamp=None)
    with pytest.raises(OptionError, match="no timestamps without_timestamps"):
        make_options(without_timestamps=True, max_initial_timestamp=2)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("language", 7, "language is 7; it takes text"),
        ("task", "summarise", "task is 'summarise'; it is either"),
        ("temperature", -0.1, "temperature is -0.1; it takes numbers from 0 to 2, at least one"),
        ("temperature", (0.0, 2.1), "from 0 to 2"),
        ("temperature", (), "at least one"),
        ("temperature", "hot", "it takes numbers"),
        ("temperature", "10", "temperature is '10'; it takes numbers"),
        ("temperature", "0", "temperature is '0'; it takes numbers"),
        ("temperature", (0, "0.5"), "temperature is (0, '0.5'); it takes numbers"),
        ("temperature", b"0", "it takes numbers"),
        ("temperature", True, "temperature is True; it takes numbers"),
        ("temperature", [np.True_], "it takes numbers"),
        ("temperature", 10, "from 0 to 2"),
        ("temperature", None, "it takes numbers"),
        ("without_timestamps", "yes", "either True or False"),
        ("initial_prompt", ["a"], "it takes text"),
        ("carry_initial_prompt", True, "without an initial_prompt"),
        ("no_speech_threshold", "high", "no_speech_threshold is 'high'; it takes numbers"),
        ("no_speech_threshold", "0.5", "no_speech_threshold is '0.5'; it takes numbers"),
        ("no_speech_threshold", [0.5], "no_speech_threshold is [0.5]; it takes numbers"),
        ("no_speech_threshold", True, "it takes numbers"),
        ("logprob_threshold", float("nan"), "finite"),
        ("logprob_threshold", 10**400, "it takes numbers"),
        ("beam_size", 0, "beam_size is 0; it takes a whole number from 1 to 16"),
        ("beam_size", 17, "from 1 to 16"),
        ("beam_size", 2.0, "from 1 to 16"),
        ("best_of", True, "from 1 to 16"),
        ("patience", 2.0, "patience is 2.0, which is for beam search; give beam_size above 1"),
        ("patience", 0, "above 0, up to 10"),
        ("patience", 11, "above 0, up to 10"),
        ("length_penalty", 1.5, "from 0 to 1, or None"),
        ("length_penalty", 0, "length_penalty is 0, which ranks beams and samples"),
        ("seed", -1, "seed is -1; it takes a whole number from 0"),
        ("no_speech_threshold", 60, "from 0 to 1"),
        ("logprob_threshold", 0.5, "a number up to 0"),
        ("compression_ratio_threshold", 0, "a number above 0"),
        ("seed", 1.0, "whole number from 0"),
        ("seed", None, "whole number from 0"),
        ("temperature_increment_on_fallback", 0.2, "temperature=(0.0, 0.2, …)"),
        ("prompt_reset_on_temperature", 0.8, "above temperature 0.5 is never a prompt"),
        ("suppress_tokens", "x", "separated by commas"),
        ("max_initial_timestamp", 31, "0 to 30 seconds"),
        ("sample_len", 0, "whole number from 1"),
        ("sample_len", True, "whole number from 1"),
        ("clip_timestamps", "5,2", "ascending"),
        ("clip_timestamps", "-1", "ascending"),
        ("clip_timestamps", "a,b", "clip_timestamps is 'a,b'; it takes numbers"),
        ("clip_timestamps", "0,inf", "it takes finite numbers"),
        ("clip_timestamps", ["1", "2"], "clip_timestamps is ['1', '2']; it takes numbers"),
        ("word_timestamps", "yes", "either True or False"),
        ("prepend_punctuations", "(", "give word_timestamps=True too"),
        ("prepend_punctuations", None, "every character a mark"),
        ("append_punctuations", ["."], "every character a mark"),
        ("hallucination_silence_threshold", 2.0, "give word_timestamps=True too"),
        ("hallucination_silence_threshold", -1, "seconds from 0"),
        ("vad", True, "its name here is vad_filter"),
        ("batched", True, "batch_size above 1"),
        ("batch_size", 0, "from 1 to 256"),
        ("hotwords", 7, "it takes text"),
        ("languages", "", "at least one language"),
        ("languages", 7, "it takes languages"),
        ("language_detection_threshold", 0.5, "give multilingual=True too"),
        ("language_detection_threshold", 1.5, "from 0 to 1"),
        ("language_detection_segments", 4, "multilingual=True"),
        ("vad_parameters", {"threshold": 0.4}, "give vad_filter=True too"),
        ("vad_parameters", {"onset": 0.4}, "it takes threshold"),
        ("vad_parameters", 0.4, "it takes a dictionary of threshold"),
        ("coverage", "yes", "either True or False"),
        ("fp16", False, "precision is chosen when converting"),
        ("log_prob_threshold", -1.0, "logprob_threshold"),
        ("lanugage", "de", "did you mean 'language'?"),
        ("xyzzy", 1, "there are: language, languages"),
    ],
)
def test_what_cannot_be_done_is_said(name: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        make_options(**{name: value})
    assert message in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"beam_size": 5, "temperature": (0.2, 0.4)},
            "beam_size is 5, which is for temperature 0, and temperature is 0.2, 0.4; give 0 as "
            "well, or leave beam_size out.",
        ),
        (
            {"best_of": 5, "temperature": 0},
            "best_of is 5, which is for temperatures above 0, and temperature is 0; give one "
            "above 0, or leave best_of out.",
        ),
        (
            {"seed": 7, "temperature": 0},
            "seed is 7, which is for temperatures above 0, and temperature is 0; give one above 0, "
            "or leave seed out.",
        ),
    ],
)
def test_a_search_that_no_temperature_uses_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        make_options(**given)
    assert str(caught.value) == message
    assert make_options(**given | {"temperature": (0.0, 0.2)}).temperature == (0.0, 0.2)


@pytest.mark.parametrize("name", ["best_of", "seed"])
def test_samples_need_a_fallback_or_a_first_temperature_above_0(name: str) -> None:
    stays = {"compression_ratio_threshold": None, "logprob_threshold": None}
    with pytest.raises(OptionError) as caught:
        make_options(**{name: 3}, **stays)
    assert str(caught.value) == (
        f"{name} is 3, which is for temperatures above 0, and after the first, 0, none is tried "
        "without compression_ratio_threshold and logprob_threshold; give one of them, or leave "
        f"{name} out."
    )
    for given in ({**stays, "temperature": (0.5, 0.0)}, *({k: None} for k in stays), {}):
        assert getattr(make_options(**{name: 3}, **given), name) == 3


def test_what_is_given_as_it_is_anyway_is_taken() -> None:
    assert make_options(temperature=0, seed=0, best_of=1) == make_options(temperature=0)


def test_thresholds_count_at_a_single_temperature_too() -> None:
    """They skip silent windows, and what is reported of a window says what speaks against it."""
    given = {"no_speech_threshold": 0.5, "logprob_threshold": -2, "compression_ratio_threshold": 2}
    assert make_options(temperature=0, **given).compression_ratio_threshold == 2


def test_a_prefix_is_for_text_without_timestamps() -> None:
    with pytest.raises(OptionError, match=r"prefix is 'So', .* give without_timestamps=True too"):
        make_options(prefix="So")
    assert make_options(prefix="So", without_timestamps=True).prefix == "So"
    assert make_options(prefix="").prefix == ""


def test_auto_is_for_detecting_the_language() -> None:
    assert make_options(language="auto").language is None


def test_options_made_directly_are_checked_too() -> None:
    assert TranscribeOptions(language="French").language == "fr"
    with pytest.raises(OptionError):
        TranscribeOptions(sample_len=-1)


def test_other_engines_neutral_values_change_nothing() -> None:
    given = {"beam_size": None, "best_of": None, "patience": None, "vad_filter": False}
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


def test_detection_is_refused_where_there_is_nothing_to_detect() -> None:
    english = fake_spec(languages=())
    with pytest.raises(OptionError, match="languages is given, but this model knows English"):
        check_for_model(make_options(languages=["en"]), english)
    with pytest.raises(OptionError, match="multilingual is given, but this model knows English"):
        check_for_model(make_options(multilingual=True), english)
    with pytest.raises(OptionError, match="language is 'de', so nothing is detected and languages"):
        make_options(language="de", languages=["en", "de"])
    with pytest.raises(OptionError, match="nothing is detected and multilingual would do nothing"):
        make_options(language="de", multilingual=True)
    with pytest.raises(OptionError, match="'nl'; this model knows en, de, fr"):
        check_for_model(make_options(languages="German,Dutch"), fake_spec())
    assert make_options(languages="German, fr").languages == ("de", "fr")


def test_a_model_with_a_cut_down_decoder_cannot_translate() -> None:
    spec = fake_spec()
    turbo = replace(spec, model=replace(spec.model, n_audio_layer=32, n_text_layer=4))
    check_for_model(make_options(task="transcribe"), turbo)
    with pytest.raises(OptionError, match="its decoder was cut down to 4 of 32 layers"):
        check_for_model(make_options(task="translate"), turbo)


def test_speech_parameters_come_as_a_dict_or_as_options() -> None:
    parameters = {"threshold": 0.4, "min_silence_duration_ms": 500}
    options = make_options(vad_filter=True, vad_parameters=parameters)
    assert options.vad_parameters == VadOptions(threshold=0.4, min_silence_duration_ms=500)
    with pytest.raises(OptionError, match="give vad_filter=True too"):
        make_options(batch_size=4, vad_parameters=VadOptions())  # it cuts, but drops nothing


@pytest.mark.parametrize(
    ("given", "needs"),
    [
        ({}, False),
        ({"coverage": True}, True),
        ({"coverage": False}, False),
        ({"vad_filter": True, "coverage": False}, True),
        ({"batch_size": 2}, True),
        ({"word_timestamps": True, "coverage": False}, True),
    ],
)
def test_speech_is_detected_only_where_something_needs_it(
    given: dict[str, Any], needs: bool
) -> None:
    assert make_options(**given).needs_speech is needs


def test_patience_is_taken_with_beams() -> None:
    options = make_options(beam_size=5, patience=1.5, length_penalty=0.6)
    assert (options.patience, options.length_penalty) == (1.5, 0.6)


def test_what_works_on_words_is_taken_with_them() -> None:
    given = {"append_punctuations": ".", "hallucination_silence_threshold": 1.5}
    options = make_options(word_timestamps=True, prepend_punctuations="", **given)
    assert (options.prepend_punctuations, options.append_punctuations) == ("", ".")
    assert options.hallucination_silence_threshold == 1.5


OUR_OPTIONS = {
    "batch_size",
    "coverage",
    "hotwords",
    "language_detection_threshold",
    "languages",
    "multilingual",
    "seed",
    "vad_filter",
    "vad_parameters",
}
"""What openai/whisper has not; the names are faster-whisper's where it has them."""


def test_names_defaults_and_languages_are_openai_whispers() -> None:
    transcribe = pytest.importorskip("whisper.transcribe")
    decoding = pytest.importorskip("whisper.decoding")
    tokenizer = pytest.importorskip("whisper.tokenizer")
    theirs = {
        **vars(decoding.DecodingOptions()),
        **{f: p.default for f, p in inspect.signature(transcribe.transcribe).parameters.items()},
    }
    ours = vars(TranscribeOptions())
    assert set(ours) - set(theirs) == OUR_OPTIONS
    differing = {name for name in set(ours) & set(theirs) if ours[name] != theirs[name]}
    # Where it is not given, a batch does without.
    differing.remove("condition_on_previous_text")
    # One form for several spellings.
    searching = {"beam_size", "best_of", "patience"}
    assert differing == {*searching, "suppress_tokens", "clip_timestamps"}
    assert make_options(**{name: theirs[name] for name in differing}) == TranscribeOptions()
    assert NAME_OF_LANGUAGE == tokenizer.LANGUAGES
    assert CODE_OF_LANGUAGE == tokenizer.TO_LANGUAGE_CODE
    for name in set(theirs) - set(ours) - {"model", "audio", "decode_options"}:
        with pytest.raises(OptionError, match=rf"^{name} is 'x', but .*; leave it out\.$"):
            make_options(**{name: "x"})
