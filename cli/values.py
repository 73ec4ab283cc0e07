"""Values of options as typed on the command line, turned into Python's."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mwc.runtime.errors import OptionError

if TYPE_CHECKING:
    from mwc.runtime.writers import WriteOptions

_INTEGERS = frozenset(
    {
        "batch_size",
        "beam_size",
        "best_of",
        "max_line_count",
        "max_line_width",
        "max_words_per_line",
        "no_repeat_ngram_size",
        "sample_len",
        "seed",
    }
)
_NUMBERS = frozenset(
    {
        "compression_ratio_threshold",
        "hallucination_silence_threshold",
        "language_detection_threshold",
        "length_penalty",
        "logprob_threshold",
        "max_initial_timestamp",
        "no_speech_threshold",
        "patience",
        "repetition_penalty",
        "temperature",
        "temperature_increment_on_fallback",
        "vad_max_speech_duration_s",
        "vad_min_silence_duration_ms",
        "vad_min_speech_duration_ms",
        "vad_speech_pad_ms",
        "vad_threshold",
    }
)
"""Options whose value can also be the word None, as on openai/whisper's command line."""


_INCREMENT = "temperature_increment_on_fallback"


def decoding_options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the options that were given (not None), with their values as Python's.

    The two options on temperature become one, the temperatures to try; those that begin with
    "vad_", but for "vad_filter", become `vad_parameters`.

    Raises:
        OptionError: a number cannot be read, the increment is no step, or there is no vad_filter
            for those that begin with "vad_".
    """
    options = {
        name: read_number(name, value) if name in _NUMBERS | _INTEGERS else value
        for name, value in parameters.items()
        if value is not None
    }
    if "temperature" in options or _INCREMENT in options:
        increment = options.pop(_INCREMENT, 0.2)
        first = options.get("temperature", 0.0)
        if first is None:
            raise OptionError("--temperature takes a number from 0 to 2, not None")
        options["temperature"] = temperatures(first, increment)
    detecting = [name for name in options if name.startswith("vad_") and name != "vad_filter"]
    if detecting and not options.get("vad_filter"):
        option = detecting[0].replace("_", "-")
        raise OptionError(f"--{option} says how speech is detected: it needs --vad-filter")
    if detecting:
        options["vad_parameters"] = {
            name.removeprefix("vad_"): options.pop(name) for name in detecting
        }
    return options


def temperatures(first: float, increment: float | None) -> tuple[float, ...]:
    """List the temperatures to try, from the first one up to 1 (openai/whisper `cli`).

    Without an increment (None or 0) the first is the only one; so is one that is not below 1.

    Raises:
        OptionError: the increment is no step.
    """
    if increment and not 0.01 <= increment <= 1:
        raise OptionError(
            f"--temperature-increment-on-fallback is {increment:g}; it takes a number from 0.01 "
            "to 1, or 0 or None for a single temperature"
        )
    if not increment or not 0 <= first < 1:
        return (first,)
    steps = range(int((1 + 1e-6 - first) / increment) + 1)
    return tuple(round(first + i * increment, 6) for i in steps)


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
    try:
        threads = int(word)
    except ValueError:
        raise OptionError(f"--threads takes a whole number, not {word!r}") from None
    if threads < 1:
        raise OptionError(f"--threads is at least 1, not {word}")
    return threads
