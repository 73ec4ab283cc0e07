"""Values of options as callers write them, each checked and brought to its one form."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from mwc.runtime.errors import OptionError
from mwc.runtime.languages import CODE_OF_LANGUAGE
from mwc.runtime.rules import parse_suppress_tokens
from mwc.runtime.vad import VadOptions

TASKS = ("transcribe", "translate")
MAX_WIDTH = 16
"""Most beams or samples of a window."""

MAX_BATCH = 256
"""Most windows decoded together; memory may allow fewer."""


def _read_language(name: str, value: Any) -> str | None:
    text = _read_text(name, value)
    if text is None:
        return None
    lower = text.strip().lower()
    if lower == "auto":  # ggml-org/whisper.cpp's word for it
        return None
    return CODE_OF_LANGUAGE.get(lower, lower)


def _read_languages(name: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, Iterable):
        raise OptionError(f"{name} is {value!r}; it takes languages, for example ['en', 'de'].")
    codes = tuple(code for item in items if (code := _read_language(name, item)))
    if not codes:
        raise OptionError(f"{name} is {value!r}; it takes at least one language, or None.")
    return codes


def _read_share(name: str, value: Any) -> float | None:
    number = _read_number(name, value)
    if number is not None and not 0 <= number <= 1:
        raise OptionError(f"{name} is {value!r}; it takes a number from 0 to 1, or None.")
    return number


def _read_logprob(name: str, value: Any) -> float | None:
    number = _read_number(name, value)
    if number is not None and number > 0:
        raise OptionError(f"{name} is {value!r}; it takes a number up to 0, or None.")
    return number


def _read_ratio(name: str, value: Any) -> float | None:
    number = _read_number(name, value)
    if number is not None and number <= 0:
        raise OptionError(f"{name} is {value!r}; it takes a number above 0, or None.")
    return number


def _read_vad(name: str, value: Any) -> VadOptions | None:
    return None if value is None else VadOptions.read(value)


def _read_optional_flag(name: str, value: Any) -> bool | None:
    return None if value is None else _read_flag(name, value)


def _read_task(name: str, value: Any) -> str:
    if value not in TASKS:
        raise OptionError(f'{name} is {value!r}; it is either "transcribe" or "translate".')
    return str(value)


def _read_temperature(name: str, value: Any) -> tuple[float, ...]:
    numbers = _read_numbers(name, value)
    if not numbers or not all(0 <= number <= 2 for number in numbers):
        raise OptionError(f"{name} is {value!r}; it takes numbers from 0 to 2, at least one.")
    return numbers


def _read_count(name: str, value: Any, most: int = MAX_WIDTH) -> int:
    if value is None:
        return 1
    if type(value) is not int or not 1 <= value <= most:
        raise OptionError(f"{name} is {value!r}; it takes a whole number from 1 to {most}.")
    return value


def _read_patience(name: str, value: Any) -> float:
    number = _read_number(name, value)
    if number is None:
        return 1.0
    if not 0 < number <= 10:
        raise OptionError(f"{name} is {value!r}; it takes a number above 0, up to 10.")
    return number


def _read_seed(name: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise OptionError(f"{name} is {value!r}; it takes a whole number from 0.")
    return value


def _read_suppress_tokens(name: str, value: Any) -> tuple[int, ...]:
    return parse_suppress_tokens(value)


def _read_max_initial_timestamp(name: str, value: Any) -> float | None:
    number = _read_number(name, value)
    if number is not None and not 0 <= number <= 30:
        raise OptionError(f"{name} is {value!r}; it takes 0 to 30 seconds, or None.")
    return number


def _read_sample_len(name: str, value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise OptionError(f"{name} is {value!r}; it takes a whole number from 1, or None.")
    return value


def _read_clip_timestamps(name: str, value: Any) -> tuple[float, ...]:
    numbers = _read_numbers(name, _split(name, value) if isinstance(value, str) else value)
    if any(number < 0 for number in numbers) or list(numbers) != sorted(numbers):
        raise OptionError(
            f"{name} is {value!r}; it takes seconds from 0 in ascending order, "
            'start,end,start,end,…, for example "0,12.5,60".'
        )
    return numbers


def _read_silence_threshold(name: str, value: Any) -> float | None:
    number = _read_number(name, value)
    if number is not None and number < 0:
        raise OptionError(f"{name} is {value!r}; it takes seconds from 0, or None.")
    return number


def _read_marks(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise OptionError(f"{name} is {value!r}; it takes text, every character a mark.")
    return value


def _read_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"{name} is {value!r}; it is either True or False.")
    return value


def _read_text(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise OptionError(f"{name} is {value!r}; it takes text, or None.")
    return value


def _split(name: str, text: str) -> list[float]:
    """The numbers in a text, separated by commas."""
    try:
        return [float(item) for item in text.split(",") if text]
    except ValueError:
        raise OptionError(f"{name} is {text!r}; it takes numbers.") from None


def _read_number(name: str, value: Any) -> float | None:
    return None if value is None else _finite(name, value, [value])[0]


def _read_numbers(name: str, values: Any) -> tuple[float, ...]:
    return _finite(name, values, values if isinstance(values, Iterable) else [values])


def _finite(name: str, given: Any, items: Iterable[Any]) -> tuple[float, ...]:
    """Read the items of what was given: finite numbers, also numpy's; no text, no booleans."""
    try:
        listed = list(items)
        if any(isinstance(item, _NO_NUMBERS) for item in listed):
            raise TypeError
        numbers = tuple(float(item) for item in listed)
    except (TypeError, ValueError, OverflowError):
        raise OptionError(f"{name} is {given!r}; it takes numbers.") from None
    if not all(math.isfinite(number) for number in numbers):
        raise OptionError(f"{name} is {given!r}; it takes finite numbers.")
    return numbers


_NO_NUMBERS = (bool, np.bool_, str, bytes, bytearray)
"""What Python's float takes, though it is no number."""


READERS: dict[str, Callable[[str, Any], Any]] = {
    "language": _read_language,
    "languages": _read_languages,
    "multilingual": _read_flag,
    "language_detection_threshold": _read_share,
    "task": _read_task,
    "temperature": _read_temperature,
    "beam_size": _read_count,
    "best_of": _read_count,
    "patience": _read_patience,
    "length_penalty": _read_share,
    "seed": _read_seed,
    "without_timestamps": _read_flag,
    "initial_prompt": _read_text,
    "carry_initial_prompt": _read_flag,
    "prefix": _read_text,
    "hotwords": _read_text,
    "condition_on_previous_text": _read_optional_flag,
    "no_speech_threshold": _read_share,
    "logprob_threshold": _read_logprob,
    "compression_ratio_threshold": _read_ratio,
    "suppress_tokens": _read_suppress_tokens,
    "suppress_blank": _read_flag,
    "max_initial_timestamp": _read_max_initial_timestamp,
    "sample_len": _read_sample_len,
    "clip_timestamps": _read_clip_timestamps,
    "word_timestamps": _read_flag,
    "prepend_punctuations": _read_marks,
    "append_punctuations": _read_marks,
    "hallucination_silence_threshold": _read_silence_threshold,
    "vad_filter": _read_flag,
    "vad_parameters": _read_vad,
    "batch_size": partial(_read_count, most=MAX_BATCH),
    "coverage": _read_optional_flag,
}
"""Per option, what checks a value and brings it to its one form."""
