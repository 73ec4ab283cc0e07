"""Values of options as typed on the command line, turned into Python's."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mwc.runtime.errors import OptionError

if TYPE_CHECKING:
    from mwc.runtime.writers import WriteOptions

_INTEGERS = frozenset(
    {
        "beam_size",
        "best_of",
        "max_line_count",
        "max_line_width",
        "max_words_per_line",
        "no_repeat_ngram_size",
        "sample_len",
    }
)
_NUMBERS = frozenset(
    {
        "compression_ratio_threshold",
        "hallucination_silence_threshold",
        "length_penalty",
        "logprob_threshold",
        "max_initial_timestamp",
        "no_speech_threshold",
        "patience",
        "repetition_penalty",
        "temperature",
        "temperature_increment_on_fallback",
    }
)
"""Options whose value can also be the word None, as on openai/whisper's command line."""


def decoding_options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the options that were given (not None), with their values as Python's.

    Raises:
        OptionError: a number cannot be read.
    """
    return {
        name: read_number(name, value) if name in _NUMBERS | _INTEGERS else value
        for name, value in parameters.items()
        if value is not None
    }


def writing_options(layout: Mapping[str, Any], decoding: Mapping[str, Any]) -> "WriteOptions":
    """Make the writers' options of the subtitle options on the command line.

    Args:
        layout: the subtitle options, None where they were not given.
        decoding: the decoding options that were given.

    Raises:
        OptionError: one cannot be read, is not allowed, or needs --word-timestamps.
    """
    from mwc.runtime.writers import make_write_options

    language = "en" if decoding.get("task") == "translate" else None
    options = make_write_options(**decoding_options(layout), text_language=language)
    if options.layout and not decoding.get("word_timestamps"):
        option = options.layout[0].replace("_", "-")
        raise OptionError(f"--{option} works on words: it needs --word-timestamps True")
    return options


def read_number(name: str, word: str) -> float | int | None:
    """Read "0.6", "5" or "None" as typed on the command line."""
    if word == "None":
        return None
    try:
        return int(word) if name in _INTEGERS else float(word)
    except ValueError:
        kind = "a whole number" if name in _INTEGERS else "a number"
        option = name.replace("_", "-")
        raise OptionError(f"--{option} takes {kind} or None, not {word!r}") from None


def read_threads(word: str | None) -> int | None:
    """Read --threads: a whole number from 1, or None where it was not given."""
    if word is None:
        return None
    if not word.lstrip("-").isdecimal():
        raise OptionError(f"--threads takes a whole number, not {word!r}")
    if int(word) < 1:
        raise OptionError(f"--threads is at least 1, not {word}")
    return int(word)
