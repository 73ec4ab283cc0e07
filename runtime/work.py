"""One window on its way from a plan to segments, and how a call wants its windows decoded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

from mwc.runtime.clips import best_cut
from mwc.runtime.decode import Task, WindowResult
from mwc.runtime.decoder import Decoder
from mwc.runtime.detect import DetectedLanguage
from mwc.runtime.encoding import EncodedWindow
from mwc.runtime.errors import AudioError
from mwc.runtime.fallback import why_refused, why_sparse
from mwc.runtime.features import WINDOW_FRAMES, Features
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.prompt import make_prompt
from mwc.runtime.report import Attempt, WindowReport
from mwc.runtime.sampling import Sampling, sampling_for
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.speech import Speech
from mwc.runtime.timing import Aligner
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcript import Segment
from mwc.runtime.windows import WindowLoop, WindowRequest

SHORTEST_TO_CUT = 600
"""Frames from which a window is cut once more where its text leaves speech out: 6 s."""

LEAST_SPEECH = 0.1
"""Seconds of detected speech that make the rest of a clip worth decoding."""


@dataclass
class Part:
    """Audio to transcribe in one go: some windows of a file that follow each other.

    Attributes:
        features: the file's log-mel frames.
        loop: which windows of it, and what their tokens mean.
        language: code of the file's language; with `multilingual`, of the window before.
        speech: the file's speech, where its clips were cut by it: they end in silence, and what is
            left of one after a window is decoded only if it holds some; None where they were not.
    """

    features: Features
    loop: WindowLoop
    language: str
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


class Recipe:
    """How the windows of one call are decoded.

    Attributes:
        spec: the model.
        tokenizer: its tokenizer.
        options: what is wanted.
        samplings: how windows are sampled, by the temperatures in their order.
        width: row slots that a search takes at most.
    """

    def __init__(self, spec: WhisperSpec, tokenizer: Tokenizer, options: TranscribeOptions) -> None:
        """Work out what the options ask for.

        Raises:
            OptionError: `suppress_tokens` holds an id that is not in the vocabulary.
        """
        self.spec = spec
        self.tokenizer = tokenizer
        self.options = options
        sampling = sampling_for(spec, options)
        self.samplings: tuple[Sampling, ...] = tuple(
            replace(sampling, strategy=replace(sampling.strategy, temperature=temperature))
            for temperature in options.temperature
        )
        self.width = options.width


class Judgement(Enum):
    """What is to become of a window that was searched."""

    ACCEPT = "accept"
    SEARCH_AGAIN = "search again, at the next temperature"
    GO_ON = "search for more, after what was found"
    ENCODE_SHORTER = "encode it anew, shorter"


class Work:
    """One window under way.

    Attributes:
        part: what it is a window of.
    """

    def __init__(self, recipe: Recipe, part: Part, request: WindowRequest) -> None:
        self.part = part
        self._recipe = recipe
        self._request = request
        self._detected: DetectedLanguage | None = None
        self._attempts: list[Attempt] = []
        self._n_tried = 0  # temperatures, with the window as it is now
        self._found: WindowResult | None = None  # what stands of what was searched for
        self._heard = 0  # the frame to which that is heard

    @property
    def may_have_speech(self) -> bool:
        """Whether it is worth decoding: the first window of a clip always is."""
        if self.part.speech is None or self._request.begins_clip:
            return True
        return self.part.speech.seconds(*self._times()) >= LEAST_SPEECH

    def window(self, slot: int) -> EncodedWindow:
        """What is to be encoded into a window slot; nothing follows the frames of a full one."""
        part, request = self.part, self._request
        return EncodedWindow(
            slot,
            part.features,
            request.seek,
            request.n_frames,
            ends_in_silence=part.speech is not None and request.n_frames < WINDOW_FRAMES,
        )

    def take_language(self, detected: DetectedLanguage) -> None:
        """Go by the language that was detected in the window, if that is sure enough."""
        self._detected = detected
        threshold = self._recipe.options.language_detection_threshold or 0.0
        if detected.probability >= threshold:
            self.part.language = detected.language

    @property
    def sampling(self) -> Sampling:
        """How it is sampled at the temperature whose turn it is."""
        return self._recipe.samplings[self._n_tried]

    def task(self, slot: int) -> Task:
        """The search in its window slot, encoded."""
        recipe, request = self._recipe, self._request
        prompt = make_prompt(
            recipe.spec, recipe.tokenizer, recipe.options, self.part.language, request.previous
        )
        return Task(prompt, slot, (request.seek,))

    def judge(self, result: WindowResult, *, has_room: bool) -> Judgement:
        """Judge what a search found; `has_room` says whether it could find more after that.

        Text that ends before the speech does is gone on with where the window is known to end in
        silence. Text that leaves speech out would leave it out at other temperatures too: the
        model has to hear less at once.
        """
        refused = why_refused(result, self.part.loop.judged_by())
        heard = self._heard_to(result)
        goes_on = self._found is not None
        if goes_on and (refused or self._is_improbable(result) or heard <= self._heard):
            refused, has_room = None, False  # it brought nothing: what was found before stands
        else:
            if goes_on:
                self._attempts.pop()
            self._found, self._heard = result, heard
            self._attempts.append(
                Attempt(result.temperature, result.avg_logprob, result.compression_ratio, refused)
            )
        if refused:
            self._n_tried += 1
            if self._n_tried == len(self._recipe.samplings):
                return Judgement.ACCEPT
            self._found = None
            return Judgement.SEARCH_AGAIN
        if has_room and self._leaves_speech():
            return Judgement.GO_ON
        sparse = self._why_sparse()
        if sparse:
            self._attempts[-1] = replace(self._attempts[-1], refused=sparse)
            if self._shorten():
                return Judgement.ENCODE_SHORTER
        return Judgement.ACCEPT

    def accept(self, decoder: Decoder, slot: int, row: int) -> Decoded:
        """Turn the text that was found into segments, with words where they are wanted.

        For words the window has to be in its slot still; the row slot is used.
        """
        recipe, found = self._recipe, self._taken()
        aligner = Aligner(decoder, recipe.tokenizer, self.part.language, recipe.options.task)
        align = partial(aligner.align, window=slot, n_frames=self._request.n_frames, row=row)
        accepted = self.part.loop.accept(found, align)
        return self._done(accepted.segments, accepted.skipped, found.no_speech_prob)

    def leave_out(self) -> Decoded:
        """Go past it without decoding it: it has no speech."""
        self.part.loop.leave()
        return self._done((), f"less than {LEAST_SPEECH:g} s of speech detected", None)

    def _taken(self) -> WindowResult:
        if self._found is None:
            raise RuntimeError("nothing was found yet; judge() first")
        return self._found

    def _is_improbable(self, result: WindowResult) -> bool:
        """Whether what came after what stood already is."""
        floor = self._recipe.options.logprob_threshold
        return floor is not None and result.new_logprob < floor

    def _heard_to(self, result: WindowResult) -> int:
        """The frame to which the window is heard; its end where the next one hears the rest."""
        request = self._request
        if self.part.speech is None or not request.ends_in_silence:
            return request.seek + request.n_frames
        return self.part.loop.heard_to(result)

    def _leaves_speech(self) -> bool:
        """Whether there is speech after what was found that no next window would hear better."""
        if self.part.speech is None:
            return False
        heard = self._heard / self._recipe.spec.audio.frames_per_second
        return self.part.speech.seconds(heard, self._times()[1]) >= LEAST_SPEECH

    def _why_sparse(self) -> str | None:
        if self.part.speech is None:
            return None
        n_tokens = sum(token < self._recipe.spec.tokens.eot for token in self._taken().tokens)
        return why_sparse(n_tokens, self.part.speech.seconds(*self._times()))

    def _shorten(self) -> bool:
        """Cut it in its middle third, to be encoded anew; False if it is too short."""
        request, speech = self._request, self.part.speech
        if speech is None or request.n_frames < SHORTEST_TO_CUT:
            return False
        third = request.n_frames // 3
        cut = best_cut(speech, request.seek + third, request.seek + 2 * third)
        self._request = self.part.loop.shorten(cut - request.seek)
        self._n_tried = 0
        self._found = None
        return True

    def _done(
        self, segments: Sequence[Segment], skipped: str | None, no_speech_prob: float | None
    ) -> Decoded:
        start, end = self._times()
        part, detected = self.part, self._detected
        n_attempts = len(self._attempts)
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
                attempts=tuple(self._attempts),
                skipped=skipped,
            ),
            ends_part=part.loop.is_done,
        )

    def _times(self) -> tuple[float, float]:
        """Seconds at which it starts and ends."""
        rate = self._recipe.spec.audio.frames_per_second
        return self._request.seek / rate, (self._request.seek + self._request.n_frames) / rate
