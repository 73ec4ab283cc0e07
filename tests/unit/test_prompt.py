"""What stands before a window's text: hotwords, and what is told of texts that do not fit."""

import pytest
from fake_decoder import fake_spec

from mwc.runtime.errors import OptionError
from mwc.runtime.options import make_options
from mwc.runtime.prompt import make_prompt, prompt_notes
from mwc.runtime.tokenizer import Tokenizer

SPEC = fake_spec()
T = SPEC.tokens


def test_hotwords_stand_before_the_previous_text(tokenizer: Tokenizer) -> None:
    prompt = make_prompt(SPEC, tokenizer, make_options(hotwords=" Vega "), "en", [7, 8])
    sequence = tokenizer.sot_sequence("en", "transcribe", True)
    assert prompt.tokens == (T.sot_prev, *b" Vega", 7, 8, *sequence)
    assert prompt.sot_index == 8
    alone = make_prompt(
        SPEC,
        tokenizer,
        make_options(hotwords="Vega", prefix="So", without_timestamps=True),
        "en",
    )
    plain = tokenizer.sot_sequence("en", "transcribe", False)
    assert alone.tokens == (T.sot_prev, *b" Vega", *plain, *b" So")


def test_hotwords_keep_their_room(tokenizer: Tokenizer) -> None:
    options = make_options(hotwords="a" * 100)
    prompt = make_prompt(SPEC, tokenizer, options, "en", list(range(250)))
    assert prompt.tokens[1:102] == tuple(b" " + b"a" * 100)
    assert prompt.tokens[102:224] == tuple(range(128, 250))  # 223 less 101: the last 122
    full = make_prompt(SPEC, tokenizer, make_options(hotwords="a" * 300), "en", [7])
    assert full.tokens[1:224] == tuple(b" " + b"a" * 222)
    assert full.sot_index == 224


@pytest.mark.parametrize("hotwords", ["", "  "])
def test_no_hotwords_change_nothing(tokenizer: Tokenizer, hotwords: str) -> None:
    prompt = make_prompt(SPEC, tokenizer, make_options(hotwords=hotwords), "en")
    assert prompt.sot_index == 0


def test_hotwords_are_plain_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(OptionError, match="plain text"):
        make_prompt(SPEC, tokenizer, make_options(hotwords="<|endoftext|>"), "en")


def test_what_is_cut_off_is_told(tokenizer: Tokenizer) -> None:
    assert prompt_notes(SPEC, tokenizer, make_options()) == ()
    fitting = make_options(initial_prompt="b" * 122, hotwords="a" * 99)
    assert prompt_notes(SPEC, tokenizer, fitting) == ()
    long = make_options(initial_prompt="First things. " + "b" * 220)
    assert prompt_notes(SPEC, tokenizer, long) == (
        "initial_prompt is 235 tokens long and the prompt has room for 223: its beginning, "
        "12 tokens, is cut off ('First thing'); shorten it",
    )
    both = make_options(initial_prompt="bcd", hotwords="a" * 222 + "end" * 20)
    assert prompt_notes(SPEC, tokenizer, both) == (
        "hotwords is 283 tokens long and the prompt has room for 223: its end, 60 tokens, is cut "
        "off ('endendendendendendendendendendendendende…'); shorten it",
        "initial_prompt is 4 tokens long and the prompt has room for 0: its beginning, 4 tokens, "
        "is cut off ('bcd'); shorten it",
    )


def test_a_prefix_that_gives_way_to_sample_len_is_told(tokenizer: Tokenizer) -> None:
    options = make_options(prefix="a" * 59, sample_len=200, without_timestamps=True)
    prompt = make_prompt(SPEC, tokenizer, options, "en")
    assert prompt.tokens[-25:] == (prompt.tokens[-25], *b"a" * 24)
    assert prompt_notes(SPEC, tokenizer, options) == (
        "prefix is 60 tokens long and the prompt has room for 24: its beginning, 36 tokens, is cut "
        f"off ('{'a' * 35}'); shorten it",
    )
