"""What a caller may ask of a transcription: openai/whisper's option names, defaults and meanings.

Defaults are those of its `transcribe` function (its command has beam_size and best_of 5). Every
value is checked and brought to one form when the options are made; what depends on the model is
checked by `check_for_model`.
"""

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from mwc.runtime.errors import OptionError
from mwc.runtime.languages import CODE_OF_LANGUAGE
from mwc.runtime.rules import parse_suppress_tokens
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.words import APPEND_PUNCTUATIONS, PREPEND_PUNCTUATIONS

TASKS = ("transcribe", "translate")
MAX_WIDTH = 16
"""Most beams or samples of a window."""


@dataclass(frozen=True)
class TranscribeOptions:
    """Options of one transcription (openai/whisper `transcribe.py` and `DecodingOptions`).

    Attributes:
        language: spoken language, as a code ("de") or an English name ("German"); None detects it
            from the first 30 s.
        task: "transcribe", or "translate" into English.
        temperature: 0 decodes the likeliest tokens, above 0 samples; several are tried in turn
            until a window's text is plausible.
        beam_size: beams at temperature 0; 1 or None is greedy.
        best_of: samples at temperatures above 0, of which the likeliest is taken; None is 1.
        patience: beam search ends with round(beam_size * patience) finished transcripts; None is 1.
        length_penalty: 0 to 1, alpha of Google NMT's length penalty; None divides by the length.
        seed: of the samples; equal seeds give equal transcripts.
        without_timestamps: sample text only; every window of 30 s becomes one segment.
        initial_prompt: text that the first window takes as what was said before it.
        carry_initial_prompt: put `initial_prompt` before the previous text of every window.
        prefix: text that every window's transcript begins with.
        condition_on_previous_text: give each window the text before it as its prompt.
        no_speech_threshold: skip a window whose no_speech_prob is above this and whose
            avg_logprob is not above `logprob_threshold`; None skips nothing.
        logprob_threshold: a window whose avg_logprob is below this is decoded at the next
            temperature, unless it is probably silence; None lets no_speech_prob alone decide.
        compression_ratio_threshold: so is one whose text packs better than this; None: none is.
        suppress_tokens: ids never sampled, comma-separated or a sequence; -1 stands for the
            model's own list; empty suppresses nothing.
        suppress_blank: keep a blank and the end of text from being sampled first.
        max_initial_timestamp: seconds, the latest first timestamp of a window; None or 0 for no
            limit.
        sample_len: most tokens sampled in a window; None for half the model's context, 224.
        clip_timestamps: seconds, "start,end,start,end,…" of the clips to transcribe, ascending;
            the last end may be left out.
        word_timestamps: find when each word was said, and take the times of segments from that.
            Of a translation they may not be reliable.
        prepend_punctuations: with `word_timestamps`, marks that belong to the word after them.
        append_punctuations: with `word_timestamps`, marks that belong to the word before them.
        hallucination_silence_threshold: with `word_timestamps`, seconds of silence around words
            so unlikely that they are dropped; None drops nothing.

    Raises:
        OptionError: a value is not allowed.
    """

    language: str | None = None
    task: str = "transcribe"
    temperature: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    beam_size: int = 1
    best_of: int = 1
    patience: float = 1.0
    length_penalty: float | None = None
    seed: int = 0
    without_timestamps: bool = False
    initial_prompt: str | None = None
    carry_initial_prompt: bool = False
    prefix: str | None = None
    condition_on_previous_text: bool = True
    no_speech_threshold: float | None = 0.6
    logprob_threshold: float | None = -1.0
    compression_ratio_threshold: float | None = 2.4
    suppress_tokens: tuple[int, ...] = (-1,)
    suppress_blank: bool = True
    max_initial_timestamp: float | None = 1.0
    sample_len: int | None = None
    clip_timestamps: tuple[float, ...] = (0.0,)
    word_timestamps: bool = False
    prepend_punctuations: str = PREPEND_PUNCTUATIONS
    append_punctuations: str = APPEND_PUNCTUATIONS
    hallucination_silence_threshold: float | None = None

    def __post_init__(self) -> None:
        for name, read in _READERS.items():
            object.__setattr__(self, name, read(name, getattr(self, name)))
        if self.patience != 1.0 and self.beam_size == 1:
            raise OptionError(
                f"patience is {self.patience}, which is for beam search; give beam_size too."
            )
        if self.carry_initial_prompt and self.initial_prompt is None:
            raise OptionError(
                "carry_initial_prompt is True without an initial_prompt to carry; give both."
            )
        for name in _OF_WORDS:
            value = getattr(self, name)
            if not self.word_timestamps and value != _DEFAULTS[name]:
                raise OptionError(
                    f"{name} is {value!r}, but it works on words; give word_timestamps=True too."
                )


def make_options(**given: Any) -> TranscribeOptions:
    """Make options from names and values as a caller wrote them.

    Raises:
        OptionError: a name is unknown (the message holds the nearest), a value is not allowed, or
            an option of another engine or a later version is asked for.
    """
    names = [field.name for field in fields(TranscribeOptions)]
    known: dict[str, Any] = {}
    for name, value in given.items():
        if name in names:
            known[name] = value
        elif name in _NOT_HERE:
            neutral, reason = _NOT_HERE[name]
            if value not in neutral:
                raise OptionError(f"{name} is {value!r}, but {reason}; leave it out.")
        else:
            near = difflib.get_close_matches(name, [*names, *_NOT_HERE], n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}."
            raise OptionError(f"there is no option {name!r}; {advice}")
    return TranscribeOptions(**known)


def check_for_model(options: TranscribeOptions, spec: WhisperSpec) -> None:
    """Check the options that depend on the model.

    Raises:
        OptionError: the model lacks the language or the task, or its context is too short.
    """
    codes = [code for code, _ in spec.tokens.languages]
    if not spec.tokens.is_multilingual:
        if options.language not in (None, "en"):
            raise OptionError(
                f"language is {options.language!r}, but this model knows English only; "
                'give "en" or leave it out.'
            )
        if options.task != "transcribe":
            raise OptionError(
                f"task is {options.task!r}, but this English-only model can only transcribe; "
                "leave it out."
            )
    elif options.language is not None and options.language not in codes:
        raise OptionError(
            f"language is {options.language!r}; this model knows {', '.join(codes)}, "
            "by these codes or their English names."
        )
    if options.sample_len is not None and options.sample_len > spec.model.n_text_ctx:
        raise OptionError(
            f"sample_len is {options.sample_len}; "
            f"this model's context holds {spec.model.n_text_ctx} tokens, give at most that."
        )
    # The text is fed again between sot, language, task, no_timestamps and eot.
    room = spec.model.n_text_ctx - (5 if spec.tokens.is_multilingual else 3)
    if options.word_timestamps and options.sample_len is not None and options.sample_len > room:
        raise OptionError(
            f"sample_len is {options.sample_len}; with word_timestamps give at most {room}."
        )


def _read_language(name: str, value: Any) -> str | None:
    text = _read_text(name, value)
    if text is None:
        return None
    lower = text.strip().lower()
    return CODE_OF_LANGUAGE.get(lower, lower)


def _read_task(name: str, value: Any) -> str:
    if value not in TASKS:
        raise OptionError(f'{name} is {value!r}; it is either "transcribe" or "translate".')
    return str(value)


def _read_temperature(name: str, value: Any) -> tuple[float, ...]:
    numbers = _read_numbers(name, [value] if isinstance(value, int | float) else value)
    if not numbers or not all(0 <= number <= 2 for number in numbers):
        raise OptionError(f"{name} is {value!r}; it takes numbers from 0 to 2, at least one.")
    return numbers


def _read_count(name: str, value: Any) -> int:
    if value is None:
        return 1
    if type(value) is not int or not 1 <= value <= MAX_WIDTH:
        raise OptionError(f"{name} is {value!r}; it takes a whole number from 1 to {MAX_WIDTH}.")
    return value


def _read_patience(name: str, value: Any) -> float:
    number = _read_number(name, value)
    if number is None:
        return 1.0
    if not 0 < number <= 10:
        raise OptionError(f"{name} is {value!r}; it takes a number above 0, up to 10.")
    return number


def _read_length_penalty(name: str, value: Any) -> float | None:
    number = _read_number(name, value)
    if number is not None and not 0 <= number <= 1:
        raise OptionError(f"{name} is {value!r}; it takes a number from 0 to 1, or None.")
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
    items = [item for item in value.split(",") if value] if isinstance(value, str) else value
    numbers = _read_numbers(name, items)
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


def _read_number(name: str, value: Any) -> float | None:
    return None if value is None else _read_numbers(name, [value])[0]


def _read_numbers(name: str, values: Any) -> tuple[float, ...]:
    """Read finite numbers; text counts where it is one, booleans do not."""
    try:
        items = list(values) if isinstance(values, Iterable) else [values]
        if any(isinstance(item, bool) for item in items):
            raise TypeError
        numbers = tuple(float(item) for item in items)
    except (TypeError, ValueError):
        raise OptionError(f"{name} is {values!r}; it takes numbers.") from None
    if not all(math.isfinite(number) for number in numbers):
        raise OptionError(f"{name} is {values!r}; it takes finite numbers.")
    return numbers


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "language": _read_language,
    "task": _read_task,
    "temperature": _read_temperature,
    "beam_size": _read_count,
    "best_of": _read_count,
    "patience": _read_patience,
    "length_penalty": _read_length_penalty,
    "seed": _read_seed,
    "without_timestamps": _read_flag,
    "initial_prompt": _read_text,
    "carry_initial_prompt": _read_flag,
    "prefix": _read_text,
    "condition_on_previous_text": _read_flag,
    "no_speech_threshold": _read_number,
    "logprob_threshold": _read_number,
    "compression_ratio_threshold": _read_number,
    "suppress_tokens": _read_suppress_tokens,
    "suppress_blank": _read_flag,
    "max_initial_timestamp": _read_max_initial_timestamp,
    "sample_len": _read_sample_len,
    "clip_timestamps": _read_clip_timestamps,
    "word_timestamps": _read_flag,
    "prepend_punctuations": _read_marks,
    "append_punctuations": _read_marks,
    "hallucination_silence_threshold": _read_silence_threshold,
}
"""Per option, what checks a value and brings it to its one form."""

_OF_WORDS = ("prepend_punctuations", "append_punctuations", "hallucination_silence_threshold")
"""Options that mean nothing without `word_timestamps`."""

_DEFAULTS = {field.name: field.default for field in fields(TranscribeOptions)}

_NO_VAD = "mwc 0.1 has no voice activity filter"

_NOT_HERE: dict[str, tuple[tuple[Any, ...], str]] = {
    "temperature_increment_on_fallback": (
        (None,),
        "from Python the temperatures are given one by one, as temperature=(0.0, 0.2, …)",
    ),
    "prompt_reset_on_temperature": (
        (None, 0.5),
        "text sampled above temperature 0.5 is never a prompt, as in openai/whisper",
    ),
    "repetition_penalty": ((None, 1), "mwc 0.1 has no repetition penalty"),
    "no_repeat_ngram_size": ((None, 0), "mwc 0.1 does not forbid repeated n-grams"),
    "vad_filter": ((None, False), _NO_VAD),
    "vad": ((None, False), _NO_VAD),
    "vad_parameters": ((None,), _NO_VAD),
    "hotwords": ((None,), "mwc 0.1 has no hotwords; initial_prompt can hold rare words"),
    "multilingual": ((None, False), "mwc 0.1 takes one language for a whole file"),
    "language_detection_threshold": ((None,), "the language is detected from the first 30 s"),
    "language_detection_segments": ((None, 1), "the language is detected from the first 30 s"),
    "batch_size": ((None, 1), "mwc 0.1 decodes the windows of a file one after the other"),
    "chunk_length": ((None, 30), "a window is always 30 s"),
    "fp16": ((None,), "the precision is chosen when converting, with --precision"),
    "compute_type": ((None,), "the precision is chosen when converting, with --precision"),
    "verbose": ((None,), "progress is reported through the progress callback"),
    "prompt": ((None,), "its name here is initial_prompt"),
    "log_prob_threshold": ((), "its name here is logprob_threshold"),
    "max_new_tokens": ((None,), "its name here is sample_len"),
}
"""Options of other engines or later versions: values that change nothing, and why others cannot
be had."""
