"""From the log-mel windows of a file to its transcript: detect, encode, decode, step by step.

`windows.WindowLoop` decides what is decoded; here the model does it.

Algorithm: openai/whisper `whisper/transcribe.py`, `transcribe`, and `decoding.py`,
`detect_language`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mwc.runtime.decode import Task, sampling_for
from mwc.runtime.decoder import Decoder, PrefillRow
from mwc.runtime.errors import AudioError, OptionError
from mwc.runtime.fallback import decode_with_fallback
from mwc.runtime.features import Features
from mwc.runtime.options import TranscribeOptions, check_for_model
from mwc.runtime.progress import Progress, ProgressEvent, silent
from mwc.runtime.rules import rule_state
from mwc.runtime.timing import Aligner
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcript import Segment, Transcript, Word
from mwc.runtime.windows import WindowLoop
from mwc.runtime.words import LANGUAGES_WITHOUT_SPACES, add_words

SLOT = 0
"""The window slot that one file at a time uses."""


@dataclass(frozen=True)
class DetectedLanguage:
    """The language of a file.

    Attributes:
        language: the likeliest code.
        probability: its probability among the model's languages.
        probabilities: of every language, by code.
    """

    language: str
    probability: float
    probabilities: dict[str, float]


def detect_language(decoder: Decoder, features: Features) -> DetectedLanguage:
    """Tell the language from the first 30 s.

    Audio shorter than that counts as followed by silence, as in openai/whisper: all 3000 frames of
    the window are heard.

    Raises:
        OptionError: the model knows English only.
    """
    return _FileWindow(decoder, features).detect_language()


def transcribe(
    decoder: Decoder,
    tokenizer: Tokenizer,
    features: Features,
    options: TranscribeOptions,
    progress: Progress = silent,
) -> Transcript:
    """Transcribe a file; arguments and errors as for `transcribe_segments`."""
    check_for_model(options, decoder.spec)
    window = _FileWindow(decoder, features)
    language, probability = _choose_language(window, options)
    segments = tuple(_segments(window, tokenizer, options, language, progress))
    return Transcript(
        text=tokenizer.decode(token for segment in segments for token in segment.tokens),
        language=language,
        duration=features.duration,
        segments=segments,
        language_probability=probability,
    )


def transcribe_segments(
    decoder: Decoder,
    tokenizer: Tokenizer,
    features: Features,
    options: TranscribeOptions,
    progress: Progress = silent,
) -> Iterator[Segment]:
    """Transcribe a file segment by segment, as each window is decoded.

    Args:
        decoder: the model; window slot 0 and all row slots are used.
        tokenizer: the model's tokenizer.
        features: the file's log-mel windows.
        options: what is wanted.
        progress: told the seconds of audio done, stage "transcribe".

    Returns:
        The segments in order of time, cleared ones (empty text) included.

    Raises:
        OptionError: an option does not suit the model; raised before the first segment.
    """
    check_for_model(options, decoder.spec)
    window = _FileWindow(decoder, features)
    language, _ = _choose_language(window, options)
    return _segments(window, tokenizer, options, language, progress)


def align(
    decoder: Decoder,
    tokenizer: Tokenizer,
    features: Features,
    text: str,
    options: TranscribeOptions,
) -> tuple[Word, ...]:
    """Find when each word of a text was said in audio of one window; see `Model.align`.

    The words are those that `transcribe` would give, had it found the text as one segment.
    """
    spec = decoder.spec
    check_for_model(options, spec)
    if features.n_frames > spec.audio.n_frames:
        raise AudioError(
            f"the audio lasts {features.duration:.2f} s; align takes at most "
            f"{spec.audio.chunk_length} s at once, cut it into parts with their texts."
        )
    if features.n_frames < spec.audio.frames_per_token:
        raise AudioError(f"the audio lasts {features.duration:.3f} s; align takes at least 0.02 s.")
    window = _FileWindow(decoder, features)
    language, _ = _choose_language(window, options)
    separator = "" if language in LANGUAGES_WITHOUT_SPACES else " "
    tokens = tokenizer.encode(separator + " ".join(text.split())) if text.split() else []
    window.encode(0, features.n_frames)
    timings = Aligner(decoder, tokenizer, language).align(tokens, SLOT, features.n_frames)
    segment = Segment(0, 0, 0.0, features.duration, text, tuple(tokens), 0.0, 0.0, 0.0, 0.0)
    eot = spec.tokens.eot
    (segment,) = add_words([segment], timings, eot=eot, offset=0.0, last_speech_end=0.0)
    return segment.words or ()


class _FileWindow:
    """The window slot of one file; a window that it holds already is not encoded again."""

    def __init__(self, decoder: Decoder, features: Features) -> None:
        self.decoder = decoder
        self.features = features
        self._holds: tuple[int, int] | None = None

    def encode(self, seek: int, n_frames: int) -> None:
        """Encode the window at frame `seek`, of which `n_frames` frames count."""
        if self._holds == (seek, n_frames):
            return
        self.decoder.encode(
            self.features.window(seek)[None],
            np.array([self.features.log_mel_max], dtype=np.float32),
            np.array([n_frames], dtype=np.int32),
            np.array([SLOT], dtype=np.int32),
        )
        self._holds = (seek, n_frames)

    def detect_language(self) -> DetectedLanguage:
        """See the function of this name."""
        spec = self.decoder.spec
        if not spec.tokens.is_multilingual:
            raise OptionError("this model knows English only; it cannot detect a language.")
        self.encode(0, spec.audio.n_frames)
        state = rule_state((), False, spec.tokens, None)
        row = PrefillRow((spec.tokens.sot,), row=0, window=SLOT, sot_index=0, rule_state=state)
        open_mask = np.zeros((2, spec.model.n_vocab), dtype=np.float32)
        values = self.decoder.prefill([row], open_mask).language_probs[0].tolist()
        codes = [code for code, _ in spec.tokens.languages]
        probabilities = dict(zip(codes, values, strict=True))
        language = max(probabilities, key=lambda code: probabilities[code])
        return DetectedLanguage(language, probabilities[language], probabilities)


def _choose_language(window: _FileWindow, options: TranscribeOptions) -> tuple[str, float | None]:
    """Return the language given, English for an English-only model, else the detected one."""
    if not window.decoder.spec.tokens.is_multilingual:
        return "en", None
    if options.language is not None:
        return options.language, None
    detected = window.detect_language()
    return detected.language, detected.probability


def _segments(
    window: _FileWindow,
    tokenizer: Tokenizer,
    options: TranscribeOptions,
    language: str,
    progress: Progress,
) -> Iterator[Segment]:
    """Check what is left to check, then return the segments, window after window."""
    decoder, features = window.decoder, window.features
    sampling = sampling_for(decoder.spec, options)
    strategies = [replace(sampling.strategy, temperature=t) for t in options.temperature]
    decoder.reserve(n_windows=1, n_rows=max(strategy.width for strategy in strategies))
    loop = WindowLoop(decoder.spec, tokenizer, options, language, features.n_frames)
    aligner = Aligner(decoder, tokenizer, language, options.task)

    def decode_all() -> Iterator[Segment]:
        while (request := loop.next_window()) is not None:
            window.encode(request.seek, request.n_frames)
            task = Task(request.prompt, SLOT, (request.seek,))
            result = decode_with_fallback(decoder, tokenizer, task, sampling, options)
            find_words = partial(aligner.align, window=SLOT, n_frames=request.n_frames)
            yield from loop.accept(result, find_words)
            done = min(loop.seek, features.n_frames) / decoder.spec.audio.frames_per_second
            progress(ProgressEvent("transcribe", done, features.duration, "seconds"))

    return decode_all()
