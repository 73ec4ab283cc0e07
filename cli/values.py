"""Values of options as typed on the command line, turned into Python's."""

from collections.abc import Mapping
from typing import Any

from mwc.runtime.errors import OptionError

_INTEGERS = frozenset({"beam_size", "best_of", "no_repeat_ngram_size", "sample_len"})
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
