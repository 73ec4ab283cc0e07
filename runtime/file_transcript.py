"""One file under way: its parts for the engine, and what the engine gives put in order.

The engine decodes parts of a file, or of several, in any order; here each window's segments wait
until what comes before them is there.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from mwc.runtime.call import Call
from mwc.runtime.clips import clip_notes, heard_parts, requested_clips
from mwc.runtime.detect import DetectedLanguage
from mwc.runtime.features import Features
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.prompt import make_prompt, prompt_notes
from mwc.runtime.report import WindowReport, measure_coverage
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.speech import Clip, Speech
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcript import Segment, Transcript
from mwc.runtime.windows import WindowLoop
from mwc.runtime.work import Decoded, Part


class FileTranscript:
    """A file on its way to a transcript.

    Attributes:
        parts: what the engine is to decode, in order of time.
        language: code of the file's language.
        language_probability: where it was detected, else None.
        duration: seconds of audio.
    """

    def __init__(
        self,
        call: Call,
        tokenizer: Tokenizer,
        features: Features,
        options: TranscribeOptions,
        spec: WhisperSpec,
        speech: Speech | None = None,
    ) -> None:
        """Tell the language and plan what is decoded.

        Raises:
            OptionError: a prefix leaves no room for a text.
            AudioError: a clip starts beyond the audio.
        """
        if speech is None and (options.vad_filter or options.cuts_at_silences):
            raise ValueError("vad_filter and batch_size need the speech of the file")
        self._tokenizer = tokenizer
        self._options = options
        self._speech = speech
        self._spec = spec
        self._n_frames = features.n_frames
        self.duration = features.duration
        clips = self._requested = requested_clips(options, spec, features.n_frames, features.name)
        self._notes = (
            *features.warnings,
            *clip_notes(options, spec, features.n_frames),
            *prompt_notes(spec, tokenizer, options),
        )
        parts = [clips] if speech is None else heard_parts(clips, options, speech)
        self.language, self.language_probability = language_of(
            options, spec, partial(call.detect_language, features)
        )
        make_prompt(spec, tokenizer, options, self.language)  # refuses a bad prefix before any work
        self.parts = tuple(self._part(features, heard) for heard in parts)
        self._segments: list[Segment] = []
        self._windows: list[WindowReport] = []
        self._waiting: dict[int, list[Segment]] = {id(part): [] for part in self.parts}
        self._ended: set[int] = set()
        self._order = [id(part) for part in self.parts]

    @property
    def is_done(self) -> bool:
        """Whether every part has ended."""
        return not self._order

    @property
    def seconds_done(self) -> float:
        """Seconds of audio that lie before the parts' windows that are next."""
        left = sum(part.loop.n_frames_left for part in self.parts)
        return max(self._n_frames - left, 0) / self._spec.audio.frames_per_second

    def take(self, decoded: Decoded) -> list[Segment]:
        """Take a window of one of the parts; return the segments that are next in order of time."""
        self._windows.append(decoded.report)
        self._waiting[id(decoded.part)] += decoded.segments
        if decoded.ends_part:
            self._ended.add(id(decoded.part))
        numbered: list[Segment] = []
        while self._order:
            first = self._order[0]
            numbered += self._number(self._waiting.pop(first))
            if first not in self._ended:
                self._waiting[first] = []
                break
            self._order.pop(0)
        return numbered

    def take_what_waits(self) -> None:
        """Have what was decoded out of order in the transcript too: nothing comes before it."""
        for key in self._order:
            self._number(self._waiting.pop(key))

    def transcript(self) -> Transcript:
        """The transcript of what has come so far."""
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
            warnings=self._notes,
        )

    def _part(self, features: Features, clips: list[Clip]) -> Part:
        options = self._options
        known = self._speech if options.vad_filter or options.cuts_at_silences else None
        loop = WindowLoop(self._spec, self._tokenizer, options, clips, self._n_frames, known)
        return Part(features, loop, self.language, known)

    def _number(self, segments: list[Segment]) -> list[Segment]:
        """Number segments, set them beside the detected speech, and keep them."""
        numbered = [
            replace(beside(self._speech, segment), id=len(self._segments) + i)
            for i, segment in enumerate(segments)
        ]
        self._segments += numbered
        return numbered


def beside(speech: Speech | None, segment: Segment) -> Segment:
    """Tell how much of a segment is speech; its words keep to it."""
    if speech is None:
        return segment
    words = None if segment.words is None else tuple(map(speech.keep, segment.words))
    return replace(segment, words=words, speech=speech.share(segment.start, segment.end))


def language_of(
    options: TranscribeOptions, spec: WhisperSpec, detect: Callable[[], DetectedLanguage]
) -> tuple[str, float | None]:
    """Return the language given, English for an English-only model, else the detected one."""
    if not spec.tokens.is_multilingual:
        return "en", None
    if options.language is not None:
        return options.language, None
    detected = detect()
    return detected.language, detected.probability
