"""What a caller may ask of a transcription: openai/whisper's option names, defaults and meanings.

Defaults are those of its `transcribe` function (its command has beam_size and best_of 5). Every
value is checked and brought to one form when the options are made; what depends on the model is
checked by `check_for_model`.
"""

import difflib
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from mwc.runtime.errors import OptionError
from mwc.runtime.option_values import READERS
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.vad import VadOptions
from mwc.runtime.words import APPEND_PUNCTUATIONS, PREPEND_PUNCTUATIONS


@dataclass(frozen=True)
class TranscribeOptions:
    """Options of one transcription (openai/whisper `transcribe.py` and `DecodingOptions`).

    Attributes:
        language: spoken language, as a code ("de") or an English name ("German"); None detects it
            from the first 30 s.
        languages: the only languages that detection may find; None for all of the model's.
        multilingual: detect the language of every window; its text is in that language's.
        language_detection_threshold: with `multilingual`, the probability that a window's language
            must have; below, the language of the window before it stands. None or 0: the
            likeliest always.
        task: "transcribe", or "translate" into English.
        temperature: 0 decodes the likeliest tokens, above 0 samples; several are tried in turn
            until a window's text is plausible.
        beam_size: beams at temperature 0; 1 or None is greedy.
        best_of: samples at temperatures above 0, of which the likeliest is taken; None is 1.
        patience: beam search ends with round(beam_size * patience) finished transcripts; None is 1.
        length_penalty: 0 to 1, alpha of Google NMT's length penalty; None divides by the length.
        seed: of the samples at temperatures above 0; equal seeds give equal transcripts.
        without_timestamps: sample text only; every window of 30 s becomes one segment, also with
            `word_timestamps`, where openai/whisper goes on from the last word.
        initial_prompt: text that the first window takes as what was said before it.
        carry_initial_prompt: put `initial_prompt` before the previous text of every window.
        prefix: with `without_timestamps`, text that every window's transcript is taken to begin
            with; what comes out is what follows it.
        hotwords: words to expect, put before the previous text of every window.
        condition_on_previous_text: give each window the text before it as its prompt; None for
            True, but that the windows of a batch know no text but their own: only what is left
            of one that ends early is given what it said so far.
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
        word_timestamps: find when each word was said, and take the times of segments from that;
            then words keep to detected speech. Of a translation they may not be reliable.
        prepend_punctuations: with `word_timestamps`, marks that belong to the word after them.
        append_punctuations: with `word_timestamps`, marks that belong to the word before them.
        hallucination_silence_threshold: with `word_timestamps`, seconds of silence around words
            so unlikely that they are dropped; None drops nothing.
        vad_filter: hear only what the speech detector takes for speech.
        vad_parameters: with `vad_filter`, how speech is detected: `VadOptions` or a dict of its
            fields.
        batch_size: above 1, cut the audio at silences into windows and decode so many side by
            side, which do not know each other's text; `initial_prompt` stands before each. With
            `condition_on_previous_text` parts of three windows are decoded side by side.
        coverage: report how much of the detected speech the transcript covers; None for where
            speech is detected anyway.

    Raises:
        OptionError: a value is not allowed.
    """

    language: str | None = None
    languages: tuple[str, ...] | None = None
    multilingual: bool = False
    language_detection_threshold: float | None = None
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
    hotwords: str | None = None
    condition_on_previous_text: bool | None = None
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
    vad_filter: bool = False
    vad_parameters: VadOptions | None = None
    batch_size: int = 1
    coverage: bool | None = None

    @property
    def cuts_at_silences(self) -> bool:
        """Whether the audio is cut into parts before any is decoded."""
        return self.batch_size > 1

    @property
    def width(self) -> int:
        """Rows that a window takes at most: its beams or samples."""
        return max(self.best_of if t > 0 else self.beam_size for t in self.temperature)

    @property
    def _never_samples(self) -> bool:
        """Whether nothing is decoded above temperature 0."""
        falls_back = (self.compression_ratio_threshold, self.logprob_threshold) != (None, None)
        return not any(self.temperature if falls_back else self.temperature[:1])

    @cached_property
    def never_silent(self) -> "TranscribeOptions":
        """The same, but that no window counts as silent."""
        return replace(self, no_speech_threshold=None)

    @property
    def needs_speech(self) -> bool:
        """Whether speech has to be detected."""
        used = (self.vad_filter, self.cuts_at_silences, self.word_timestamps, self.coverage)
        return any(used)

    def __post_init__(self) -> None:
        for name, read in READERS.items():
            object.__setattr__(self, name, read(name, getattr(self, name)))
        self._check_search()
        if self.without_timestamps and self.max_initial_timestamp not in (None, 1.0):
            raise OptionError(
                f"max_initial_timestamp is {self.max_initial_timestamp:g}, but there are no "
                "timestamps without_timestamps; leave one of them out."
            )
        if self.prefix and not self.without_timestamps:
            raise OptionError(
                f"prefix is {self.prefix!r}, after which the rules on timestamps end a window "
                "without text; give without_timestamps=True too, or use initial_prompt."
            )
        if self.carry_initial_prompt and self.initial_prompt is None:
            raise OptionError(
                "carry_initial_prompt is True without an initial_prompt to carry; give both."
            )
        self._check_languages()
        if self.vad_parameters is not None and not self.vad_filter:
            raise OptionError(
                "vad_parameters are given, but nothing uses them; give vad_filter=True too."
            )
        for name in _OF_WORDS:
            value = getattr(self, name)
            if not self.word_timestamps and value != _DEFAULTS[name]:
                raise OptionError(
                    f"{name} is {value!r}, but it works on words; give word_timestamps=True too."
                )

    def _check_search(self) -> None:
        """Beams are for temperature 0, samples for those above, and each has options of its own."""
        if self.patience != 1.0 and self.beam_size == 1:
            raise OptionError(
                f"patience is {self.patience}, which is for beam search; give beam_size above 1."
            )
        if self.length_penalty is not None and self.beam_size == self.best_of == 1:
            raise OptionError(
                f"length_penalty is {self.length_penalty:g}, which ranks beams and samples; give "
                "beam_size or best_of too."
            )
        temperatures = ", ".join(f"{value:g}" for value in self.temperature)
        if self.beam_size > 1 and 0.0 not in self.temperature:
            raise OptionError(
                f"beam_size is {self.beam_size}, which is for temperature 0, and temperature is "
                f"{temperatures}; give 0 as well, or leave beam_size out."
            )
        for name in _OF_SAMPLES if self._never_samples else ():
            value = getattr(self, name)
            if value != _DEFAULTS[name]:
                raise OptionError(
                    f"{name} is {value}, which is for temperatures above 0, and "
                    f"{self._why_at_zero()}, or leave {name} out."
                )

    def _why_at_zero(self) -> str:
        """Why no temperature above 0 is tried, and what to do about it."""
        if not any(self.temperature):
            return "temperature is 0; give one above 0"
        return (
            "after the first, 0, none is tried without compression_ratio_threshold and "
            "logprob_threshold; give one of them"
        )

    def _check_languages(self) -> None:
        """Options on detecting the language mean nothing where it is given."""
        if self.language is not None and (self.languages is not None or self.multilingual):
            name = "multilingual" if self.multilingual else "languages"
            raise OptionError(
                f"language is {self.language!r}, so nothing is detected and {name} would do "
                "nothing; leave one of them out."
            )
        if self.language_detection_threshold is not None and not self.multilingual:
            raise OptionError(
                f"language_detection_threshold is {self.language_detection_threshold:g}, which is "
                "for detecting the language of every window; give multilingual=True too."
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
        if options.languages is not None or options.multilingual:
            name = "multilingual" if options.multilingual else "languages"
            raise OptionError(f"{name} is given, but this model knows English only; leave it out.")
    for language in (options.language, *(options.languages or ())):
        if spec.tokens.is_multilingual and language is not None and language not in codes:
            raise OptionError(
                f"language is {language!r}; this model knows {', '.join(codes)}, "
                "by these codes or their English names."
            )
    if options.task == "translate" and spec.model.n_text_layer < spec.model.n_audio_layer:
        raise OptionError(
            f"task is 'translate', but this model cannot: its decoder was cut down to "
            f"{spec.model.n_text_layer} of {spec.model.n_audio_layer} layers and trained on "
            "transcripts alone, as turbo and distilled models are; use a model with all of them."
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


_OF_SAMPLES = ("best_of", "seed")
"""Options that mean nothing where no temperature above 0 is tried."""

_OF_WORDS = ("prepend_punctuations", "append_punctuations", "hallucination_silence_threshold")
"""Options that mean nothing without `word_timestamps`."""

_DEFAULTS = {field.name: field.default for field in fields(TranscribeOptions)}

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
    "vad": ((None, False), "its name here is vad_filter"),
    "batched": ((None, False), "batch_size above 1 decodes windows together"),
    "language_detection_segments": (
        (None, 1),
        "the language of a file is detected from its first 30 s, or of each window with "
        "multilingual=True",
    ),
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
