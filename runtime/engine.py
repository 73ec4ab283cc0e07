"""The engine: parts of audio in, decoded windows out, as many at a time as there are lanes.

A lane is a window slot with the row slots of one search. It works through one part window by
window: encode, tell the language where that is wanted, search, again at the next temperature while
the text looks wrong, words; then the next part. All lanes share each call of the model, and a
lane's result does not depend on what the others do.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from mwc.runtime.clips import best_cut
from mwc.runtime.decode import (
    DecodingBatch,
    RunningSearch,
    Sampling,
    Task,
    WindowResult,
    sampling_for,
)
from mwc.runtime.decoder import Decoder, Float32
from mwc.runtime.detect import DetectedLanguage, detect_languages
from mwc.runtime.encoding import EncodedWindow, encode_read, encode_windows, read_window
from mwc.runtime.errors import AudioError, Cancelled
from mwc.runtime.fallback import why_refused, why_sparse
from mwc.runtime.features import Features
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.prompt import make_prompt
from mwc.runtime.report import Attempt, WindowReport
from mwc.runtime.speech import Speech
from mwc.runtime.stop import Stop
from mwc.runtime.timing import Aligner
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcript import Segment
from mwc.runtime.windows import WindowLoop, WindowRequest

SHORTEST_TO_CUT = 600
"""Frames from which a window is cut once more where its text leaves speech out: 6 s."""

LEAST_SPEECH = 0.1
"""Seconds of detected speech that make the rest of a cut window worth decoding."""


@dataclass
class Part:
    """Audio to transcribe in one go: some windows of a file that follow each other.

    Attributes:
        features: the file's log-mel frames.
        loop: which windows of it, and what their tokens mean.
        language: code of the file's language; with `multilingual`, of the window before.
        start: its first frame.
        speech: the file's speech, where its clips were cut by it: they end in silence, and what is
            left after a first window is decoded only if it holds some; None where they were not.
    """

    features: Features
    loop: WindowLoop
    language: str
    start: int = 0
    speech: Speech | None = None


@dataclass(frozen=True)
class Decoded:
    """One window that is done: its segments, what happened, whether its part is done too."""

    part: Part
    segments: tuple[Segment, ...]
    report: WindowReport
    ends_part: bool


@dataclass(frozen=True)
class Failed:
    """A part that ended because its file could not be read to its end."""

    part: Part
    error: AudioError


@dataclass
class _Lane:
    """A window slot and the row slots of one search, and the part they work through."""

    slot: int
    rows: tuple[int, ...]
    part: Part | None = None


@dataclass
class _Work:
    """One window under way in a lane; `n_tried` temperatures have been tried as it is now."""

    lane: _Lane
    part: Part
    request: WindowRequest
    detected: DetectedLanguage | None = None
    attempts: list[Attempt] = field(default_factory=list)
    n_tried: int = 0


class Engine:
    """Decodes parts in the lanes of one decoder."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        options: TranscribeOptions,
        *,
        n_lanes: int = 1,
        listens_aside: bool = False,
        stop: Stop = lambda: False,
    ) -> None:
        """Have the slots that `n_lanes` need: window and row slots from 0 on are used.

        `listens_aside`: whether languages of files are told while others are decoded, which needs
        a slot that no lane has.

        Raises:
            OptionError: `suppress_tokens` holds an id that is not in the vocabulary.
            MemoryShortage: so many slots do not fit.
        """
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._options = options
        self._stop = stop
        self._sampling = sampling_for(decoder.spec, options)
        width = max(self._at(temperature).strategy.width for temperature in options.temperature)
        aside = int(listens_aside and options.language is None)
        decoder.reserve(n_windows=n_lanes + aside, n_rows=n_lanes * width + aside)
        self._lanes = [_Lane(i, tuple(range(i * width, (i + 1) * width))) for i in range(n_lanes)]
        self._aside = _Lane(n_lanes, (n_lanes * width,)) if aside else None
        self._batch = DecodingBatch(decoder, self._sampling.suppress)
        self._works: dict[RunningSearch, _Work] = {}
        self._shortened: list[_Work] = []
        self._held: EncodedWindow | None = None

    def run(self, parts: Iterable[Part]) -> Iterator[Decoded | Failed]:
        """Decode parts, taken as lanes fall free; gives each window when it is done.

        A part whose file fails ends there; the others go on.

        Raises:
            Cancelled: `stop` said so.
        """
        waiting = iter(parts)
        idle = list(self._lanes)
        while idle or self._works or self._shortened:
            self._check_stop()
            started, self._shortened = self._shortened, []
            for lane in idle:
                skipped, work = self._next_work(lane, waiting)
                yield from skipped
                started += [] if work is None else [work]
            idle = []
            if started:
                encoded, failed = self._encode(started)
                self._check_stop()
                if encoded:
                    self._begin(encoded)
                for work, error in failed:
                    work.lane.part = None
                    idle.append(work.lane)
                    yield Failed(work.part, error)
            for search in self._batch.advance() if self._works else ():
                work = self._works.pop(search)
                result = search.result(self._tokenizer)
                if self._is_tried_again(work, result):
                    continue
                idle.append(work.lane)
                yield self._accept(work, result)

    def _check_stop(self) -> None:
        if self._stop():
            raise Cancelled("the transcription was cancelled.")

    def _at(self, temperature: float) -> Sampling:
        """How windows are sampled at a temperature."""
        strategy = replace(self._sampling.strategy, temperature=temperature)
        return replace(self._sampling, strategy=strategy)

    def _next_work(
        self, lane: _Lane, waiting: Iterator[Part]
    ) -> tuple[list[Decoded], _Work | None]:
        """The next window of a lane's part, or of the next part; and those left out before it."""
        skipped: list[Decoded] = []
        while True:
            lane.part = lane.part or next(waiting, None)
            if lane.part is None:
                return skipped, None
            request = lane.part.loop.next_window()
            if request is None:
                lane.part = None
                continue
            work = _Work(lane, lane.part, request)
            if self._may_have_speech(lane.part, request):
                return skipped, work
            lane.part.loop.leave()
            why = f"less than {LEAST_SPEECH:g} s of speech detected"
            skipped.append(self._done(work, (), why, None))

    def _may_have_speech(self, part: Part, request: WindowRequest) -> bool:
        """Whether a window is worth decoding: the first of its part always is."""
        if part.speech is None or request.seek == part.start:
            return True
        return part.speech.seconds(*self._times(request)) >= LEAST_SPEECH

    def detect_language(self, features: Features) -> DetectedLanguage:
        """Tell the language of a file from its first 30 s; see `transcribe.detect_language`."""
        lane = self._aside or self._lanes[0]
        window = EncodedWindow(lane.slot, features, 0, self._decoder.spec.audio.n_frames)
        encode_windows(self._decoder, [window])
        self._held = window if lane is self._lanes[0] else None
        slots = [(lane.slot, lane.rows[0])]
        return detect_languages(self._decoder, slots, self._options.languages)[0]

    def _encode(self, works: Sequence[_Work]) -> tuple[list[_Work], list[tuple[_Work, AudioError]]]:
        """Encode windows together, except one that its slot holds already.

        Returns:
            The works that can go on, and those whose file could not be read, with the reason.
        """
        parts = [lane.part for lane in self._lanes if lane.part is not None]
        encoded: list[_Work] = []
        failed: list[tuple[_Work, AudioError]] = []
        read: list[tuple[EncodedWindow, Float32]] = []
        for work in works:
            window = EncodedWindow(
                work.lane.slot,
                work.part.features,
                work.request.seek,
                work.request.n_frames,
                ends_in_silence=work.part.speech is not None,
            )
            if window != self._held:
                try:
                    seeks = [p.loop.seek for p in parts if p.features is window.features]
                    read.append((window, read_window(window, seeks)))
                except AudioError as error:
                    failed.append((work, error))
                    continue
            encoded.append(work)
        self._held = None
        encode_read(self._decoder, read)
        return encoded, failed

    def _begin(self, works: Sequence[_Work]) -> None:
        """Tell the languages of encoded windows where that is wanted, and start their searches."""
        if self._options.multilingual:
            slots = [(work.lane.slot, work.lane.rows[0]) for work in works]
            found = detect_languages(self._decoder, slots, self._options.languages)
            threshold = self._options.language_detection_threshold or 0.0
            for work, detected in zip(works, found, strict=True):
                work.detected = detected
                if detected.probability >= threshold:
                    work.part.language = detected.language
        for work in works:
            self._search(work)

    def _search(self, work: _Work) -> None:
        """Start the search of an encoded window at the temperature whose turn it is."""
        part, request = work.part, work.request
        prompt = make_prompt(
            self._decoder.spec, self._tokenizer, self._options, part.language, request.previous
        )
        task = Task(prompt, work.lane.slot, (request.seek,))
        sampling = self._at(self._options.temperature[work.n_tried])
        rows = work.lane.rows[: sampling.strategy.width]
        self._works[self._batch.start(task, sampling, rows)] = work

    def _is_tried_again(self, work: _Work, result: WindowResult) -> bool:
        """Judge what a search found; start over, or with a shorter window, where it cannot stand.

        Text that leaves speech out would leave it out at other temperatures too: the model has to
        hear less at once.
        """
        refused = why_refused(result, work.part.loop.judged_by())
        sparse = None if refused else self._why_sparse(work, result)
        work.attempts.append(
            Attempt(
                result.temperature, result.avg_logprob, result.compression_ratio, refused or sparse
            )
        )
        work.n_tried += 1
        if sparse and self._shorten(work):
            return True
        if refused and work.n_tried < len(self._options.temperature):
            self._search(work)
            return True
        return False

    def _why_sparse(self, work: _Work, result: WindowResult) -> str | None:
        if work.part.speech is None:
            return None
        n_tokens = sum(token < self._decoder.spec.tokens.eot for token in result.tokens)
        return why_sparse(n_tokens, work.part.speech.seconds(*self._times(work.request)))

    def _shorten(self, work: _Work) -> bool:
        """Cut a window in its middle third and have it encoded anew; False if it is too short."""
        request, speech = work.request, work.part.speech
        if speech is None or request.n_frames < SHORTEST_TO_CUT:
            return False
        third = request.n_frames // 3
        cut = best_cut(speech, request.seek + third, request.seek + 2 * third)
        work.request = work.part.loop.shorten(cut - request.seek)
        work.n_tried = 0
        self._shortened.append(work)
        return True

    def _accept(self, work: _Work, result: WindowResult) -> Decoded:
        """Turn a window's text into segments, with words where they are wanted."""
        lane, request = work.lane, work.request
        aligner = Aligner(self._decoder, self._tokenizer, work.part.language, self._options.task)
        find_words = partial(
            aligner.align, window=lane.slot, n_frames=request.n_frames, row=lane.rows[0]
        )
        accepted = work.part.loop.accept(result, find_words)
        return self._done(work, accepted.segments, accepted.skipped, result.no_speech_prob)

    def _done(
        self,
        work: _Work,
        segments: Sequence[Segment],
        skipped: str | None,
        no_speech_prob: float | None,
    ) -> Decoded:
        start, end = self._times(work.request)
        part, detected = work.part, work.detected
        n_attempts = len(work.attempts)
        return Decoded(
            part,
            tuple(
                replace(segment, language=part.language, n_attempts=n_attempts)
                for segment in segments
            ),
            WindowReport(
                start=start,
                end=end,
                language=part.language,
                language_probability=None if detected is None else detected.probability,
                no_speech_prob=no_speech_prob,
                attempts=tuple(work.attempts),
                skipped=skipped,
            ),
            ends_part=part.loop.is_done,
        )

    def _times(self, request: WindowRequest) -> tuple[float, float]:
        """Seconds at which a window starts and ends."""
        rate = self._decoder.spec.audio.frames_per_second
        return request.seek / rate, (request.seek + request.n_frames) / rate
