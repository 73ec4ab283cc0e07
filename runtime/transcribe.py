"""From the log-mel windows of a file to its transcript.

`windows.WindowLoop` decides what is decoded, `engine.Engine` has the model do it; here a file is
cut into parts for them, and what they give is put in order.

Algorithm: openai/whisper `whisper/transcribe.py`, `transcribe`, and `decoding.py`,
`detect_language`.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial

from mwc.runtime.clips import clip_notes, heard_clips, requested_clips
from mwc.runtime.decoder import Decoder
from mwc.runtime.detect import DetectedLanguage, detect_languages
from mwc.runtime.engine import (
    Decoded,
    EncodedWindow,
    Engine,
    Part,
    Stop,
    encode_windows,
)
from mwc.runtime.errors import AudioError, Cancelled
from mwc.runtime.features import Features
from mwc.runtime.options import TranscribeOptions, check_for_model
from mwc.runtime.progress import Progress, ProgressEvent, silent
from mwc.runtime.prompt import make_prompt, prompt_notes
from mwc.runtime.report import WindowReport, measure_coverage
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.speech import Clip, Speech
from mwc.runtime.timing import Aligner
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcript import Segment, Transcript, Word
from mwc.runtime.windows import WindowLoop
from mwc.runtime.words import LANGUAGES_WITHOUT_SPACES, add_words

SLOT = 0
"""The window slot, and the row slot, that are used outside of the engine."""


def detect_language(
    decoder: Decoder, features: Features, languages: tuple[str, ...] | None = None
) -> DetectedLanguage:
    """Tell the language from the first 30 s.

    Audio shorter than that counts as followed by silence, as in openai/whisper: all 3000 frames of
    the window are heard.

    Raises:
        OptionError: the model knows English only.
    """
    if decoder.spec.tokens.is_multilingual:
        encode_windows(decoder, [EncodedWindow(SLOT, features, 0, decoder.spec.audio.n_frames)])
    return detect_languages(decoder, [(SLOT, SLOT)], languages)[0]


def transcribe(
    decoder: Decoder,
    tokenizer: Tokenizer,
    features: Features,
    options: TranscribeOptions,
    progress: Progress = silent,
) -> Transcript:
    """Transcribe a file to its end; arguments and errors as for `Transcription`."""
    transcription = Transcription(decoder, tokenizer, features, options, progress=progress)
    for _ in transcription:
        pass
    return transcription.transcript()


class Transcription(Iterator[Segment]):
    """A file on its way to a transcript: an iterator of its segments, in order of time.

    Segments come as soon as their windows are decoded; cleared ones (empty text) are among them.

    Attributes:
        language: code of the file's language.
        language_probability: where it was detected, else None.
        duration: seconds of audio.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        features: Features,
        options: TranscribeOptions,
        *,
        speech: Speech | None = None,
        progress: Progress = silent,
        stop: Stop = lambda: False,
    ) -> None:
        """Tell the language and plan what is decoded; nothing is decoded before it is asked for.

        Args:
            decoder: the model; its slots from 0 on are used.
            tokenizer: the model's tokenizer.
            features: the file's log-mel windows.
            options: what is wanted.
            speech: the file's speech; without it words keep the times that alignment gives them,
                and there is no coverage.
            progress: told the seconds of audio done, stage "transcribe".
            stop: asked before each call of the model; Cancelled is raised once it says True.

        Raises:
            OptionError: an option does not suit the model.
            AudioError: a clip starts beyond the audio.
        """
        check_for_model(options, decoder.spec)
        if speech is None and (options.vad_filter or options.cuts_at_silences):
            raise ValueError("vad_filter and batch_size need the speech of the file")
        self._tokenizer = tokenizer
        self._options = options
        self._speech = speech
        self._progress = progress
        self._spec = spec = decoder.spec
        self._n_frames = features.n_frames
        self.duration = features.duration
        clips = self._requested = requested_clips(options, spec, features.n_frames)
        self._notes = (
            *clip_notes(options, spec, features.n_frames),
            *prompt_notes(spec, tokenizer, options),
        )
        if speech is not None:
            clips = heard_clips(clips, options, speech)
        lanes = [[clip] for clip in clips] if options.cuts_at_silences else [clips]
        engine = Engine(decoder, tokenizer, options, n_lanes=options.batch_size, stop=stop)
        self.language, self.language_probability = _language(
            options, spec, partial(engine.detect_language, features)
        )
        make_prompt(spec, tokenizer, options, self.language)  # refuses a bad prefix before any work
        self._parts = [self._part(features, heard) for heard in lanes]
        self._decoded = engine.run(self._parts)
        self._segments: list[Segment] = []
        self._windows: list[WindowReport] = []
        self._coming = self._in_order()

    def __next__(self) -> Segment:
        return next(self._coming)

    def close(self) -> None:
        """Stop here."""
        self._coming.close()

    def transcript(self, warnings: tuple[str, ...] = ()) -> Transcript:
        """The transcript of what has been given so far; `warnings` are the audio's."""
        segments = tuple(self._segments)
        coverage = None
        if self._speech is not None and self._options.coverage is not False:
            texts = [(s.start, s.end) for s in segments if s.text.strip()]
            heard = self._speech.ranges_in(self._requested)
            coverage = measure_coverage(self._speech.detector, heard, texts)
        return Transcript(
            text=self._tokenizer.decode(token for segment in segments for token in segment.tokens),
            language=self.language,
            duration=self.duration,
            segments=segments,
            language_probability=self.language_probability,
            windows=tuple(sorted(self._windows, key=lambda window: window.start)),
            coverage=coverage,
            warnings=(*warnings, *self._notes),
        )

    def _part(self, features: Features, clips: list[Clip]) -> Part:
        options = self._options
        known = self._speech if options.vad_filter or options.cuts_at_silences else None
        loop = WindowLoop(self._spec, self._tokenizer, options, clips, self._n_frames, known)
        return Part(features, loop, self.language, loop.seek, known)

    def _in_order(self) -> Generator[Segment, None, None]:
        """The segments of all parts in the order of parts, with what is known of each."""
        waiting: dict[int, list[Segment]] = {id(part): [] for part in self._parts}
        ended: set[int] = set()
        order = [id(part) for part in self._parts]
        try:
            for decoded in self._decoded:
                self._windows.append(decoded.report)
                waiting[id(decoded.part)] += decoded.segments
                if decoded.ends_part:
                    ended.add(id(decoded.part))
                self._tell(decoded)
                while order:
                    yield from self._numbered(waiting[order[0]])
                    waiting[order[0]] = []
                    if order[0] not in ended:
                        break
                    order.pop(0)
        except Cancelled as error:
            for key in order:
                self._numbered(waiting[key])
            error.transcript = self.transcript()
            raise

    def _numbered(self, segments: list[Segment]) -> list[Segment]:
        """Number segments, set them beside the detected speech, and keep them."""
        numbered = [
            replace(_beside(self._speech, segment), id=len(self._segments) + i)
            for i, segment in enumerate(segments)
        ]
        self._segments += numbered
        return numbered

    def _tell(self, decoded: Decoded) -> None:
        """Report how much audio is done: what lies before the parts' windows that are next."""
        rate = self._spec.audio.frames_per_second
        left = sum(part.loop.n_frames_left for part in self._parts)
        done = max(self._n_frames - left, 0) / rate
        self._progress(ProgressEvent("transcribe", done, self.duration, "seconds"))


def _beside(speech: Speech | None, segment: Segment) -> Segment:
    """Tell how much of a segment is speech; its words keep to it."""
    if speech is None:
        return segment
    words = None if segment.words is None else tuple(map(speech.keep, segment.words))
    return replace(segment, words=words, speech=speech.share(segment.start, segment.end))


def align(
    decoder: Decoder,
    tokenizer: Tokenizer,
    features: Features,
    text: str,
    options: TranscribeOptions,
    speech: Speech | None = None,
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
    language, _ = _language(options, spec, partial(detect_language, decoder, features))
    separator = "" if language in LANGUAGES_WITHOUT_SPACES else " "
    tokens = tokenizer.encode(separator + " ".join(text.split())) if text.split() else []
    encode_windows(decoder, [EncodedWindow(SLOT, features, 0, features.n_frames)])
    timings = Aligner(decoder, tokenizer, language).align(tokens, SLOT, features.n_frames)
    segment = Segment(0, 0, 0.0, features.duration, text, tuple(tokens), 0.0, 0.0, 0.0, 0.0)
    eot = spec.tokens.eot
    (segment,) = add_words([segment], timings, eot=eot, offset=0.0, last_speech_end=0.0)
    return _beside(speech, segment).words or ()


def _language(
    options: TranscribeOptions, spec: WhisperSpec, detect: Callable[[], DetectedLanguage]
) -> tuple[str, float | None]:
    """Return the language given, English for an English-only model, else the detected one."""
    if not spec.tokens.is_multilingual:
        return "en", None
    if options.language is not None:
        return options.language, None
    detected = detect()
    return detected.language, detected.probability
