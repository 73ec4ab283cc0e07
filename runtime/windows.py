"""The way through a file: which window comes next, with which prompt, what its tokens mean.

Each window of 30 s is cut at the timestamps the model gave; the next one starts where the last
complete segment ended, with the text so far before it. Nothing here touches the model.

Algorithm: openai/whisper `whisper/transcribe.py`, `transcribe`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mwc.runtime.decode import WindowResult
from mwc.runtime.hallucination import WindowPlace, judge
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.prompt import hint_tokens
from mwc.runtime.report import repetition
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.speech import Clip, Speech
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcript import Segment
from mwc.runtime.window_cut import Piece, WindowCut, cut_window
from mwc.runtime.words import WordTiming, add_words, cut_to_segment, last_word_end

LOST_SPEECH = 2.0
"""Seconds of detected speech for which a window is not called silent, and not left where it comes
after the text; timestamps are off by less."""

Align = Callable[[Sequence[int]], Sequence[WordTiming]]
"""From the text tokens of a window to its words."""


@dataclass(frozen=True)
class WindowRequest:
    """A window to decode.

    Attributes:
        seek: frame at which it starts.
        n_frames: its frames that count, 1 to 3000.
        previous: tokens of the text before it, as the options want them.
        ends_in_silence: whether it ends where the file was cut in a silence, so that no sentence
            is unfinished at its end.
        begins_clip: whether it is the first window of its clip.
    """

    seek: int
    n_frames: int
    previous: tuple[int, ...]
    ends_in_silence: bool = False
    begins_clip: bool = True


@dataclass(frozen=True)
class Accepted:
    """What a window's result came to: its segments, and why there is no text if so."""

    segments: tuple[Segment, ...]
    skipped: str | None = None


class WindowLoop:
    """Which window comes next, with which prompt, and what its tokens mean.

    Ask `next_window`, decode it, hand the result to `accept`, until there is no next one.

    Attributes:
        seek: frame at which the next window starts.
    """

    def __init__(
        self,
        spec: WhisperSpec,
        tokenizer: Tokenizer,
        options: TranscribeOptions,
        clips: Sequence[Clip],
        n_frames: int,
        speech: Speech | None = None,
    ) -> None:
        """Start at the first of the clips of a file of `n_frames` frames with audio.

        Where the file's `speech` is given, a window is not left before speech that its text does
        not reach.

        Raises:
            OptionError: the initial prompt holds a special token.
        """
        self._spec = spec
        self._tokenizer = tokenizer
        self._options = options
        self._n_frames = n_frames
        self._speech = speech
        self._clips = list(clips)
        self.seek = self._clips[0][0] if self._clips else n_frames
        initial = options.initial_prompt
        self._initial = [] if initial is None else tokenizer.encode(" " + initial.strip())
        self._history = list(self._initial)
        self._reset_since = 0
        self._last_speech_end = 0.0
        self._request: WindowRequest | None = None

    def next_window(self) -> WindowRequest | None:
        """Return the window to decode now, or None at the end of the last clip."""
        if self.is_done:
            return None
        start, end = self._clips[0]
        left = end - self.seek
        window = self._spec.audio.n_frames
        self._request = WindowRequest(
            seek=self.seek,
            n_frames=min(window, left),
            previous=tuple(self._previous()),
            ends_in_silence=self._speech is not None and left <= window,
            begins_clip=self.seek == start,
        )
        return self._request

    def shorten(self, n_frames: int) -> WindowRequest:
        """Have the window last asked for end after `n_frames`, in a silence; return it."""
        self._request = replace(self._asked(), n_frames=n_frames, ends_in_silence=True)
        return self._request

    @property
    def is_done(self) -> bool:
        """Whether no window is left."""
        self._skip_ended_clips()
        return not self._clips

    @property
    def n_frames_left(self) -> int:
        """Frames from `seek` to the end of the last clip that are in clips."""
        return sum(max(end - max(start, self.seek), 0) for start, end in self._clips)

    def judged_by(self) -> TranscribeOptions:
        """The options by which the window last asked for is judged.

        Where speech is detected in it, it is not silent, whatever its `no_speech_prob`.
        """
        request = self._asked()
        rate = self._spec.audio.frames_per_second
        start, end = request.seek / rate, (request.seek + request.n_frames) / rate
        if self._speech is None or self._speech.seconds(start, end) < LOST_SPEECH:
            return self._options
        return self._options.never_silent

    def leave(self) -> None:
        """Go past the window last asked for, as if it had no text."""
        self.seek += self._asked().n_frames

    def accept(self, result: WindowResult, align: Align | None = None) -> Accepted:
        """Take the result of the window last asked for; return its segments and move on.

        `align` finds the window's words; it is needed, and used, where `word_timestamps` is on.
        """
        request = self._asked()
        if _is_silent(result, self.judged_by()):
            self.seek += request.n_frames
            return Accepted((), self._why_silent(result))
        cut, segments = self._cut(result)
        self.seek = self._after(cut, segments)
        if self._options.word_timestamps:
            if align is None:
                raise RuntimeError("accept() needs a way to align where words are wanted")
            timings = align([token for segment in segments for token in self._text(segment)])
            segments, is_skipped = self._place_words(segments, timings, cut, request)
            if is_skipped:
                return Accepted((), "unlikely words after silence")
        segments = [cut_to_segment(_cleared(segment)) for segment in segments]
        for segment in segments:
            self._history += segment.tokens
        # Text sampled at a high temperature is a poor prompt.
        if self._options.condition_on_previous_text is False or result.temperature > 0.5:
            self._reset_since = len(self._history)
        return Accepted(tuple(segments))

    def heard_to(self, result: WindowResult) -> int:
        """The frame to which the window last asked for is heard, if that is its result.

        What comes after it, up to the window's end, its text leaves to the next window.
        """
        request = self._asked()
        if _is_silent(result, self.judged_by()):
            return request.seek + request.n_frames
        return self._after(*self._cut(result))

    def _cut(self, result: WindowResult) -> tuple[WindowCut, list[Segment]]:
        """Cut a result of the window last asked for into segments."""
        request, begin = self._asked(), self._spec.tokens.timestamp_begin
        cut = cut_window(result.tokens, begin, keeps_tail=request.ends_in_silence)
        return cut, [self._segment(piece, request, result) for piece in cut.pieces]

    def _after(self, cut: WindowCut, segments: Sequence[Segment]) -> int:
        """Where the window after the one last asked for starts."""
        request = self._asked()
        if cut.advance:
            return request.seek + cut.advance * self._spec.audio.frames_per_token
        # An advance of 0, possible without the timestamp rules, would repeat this window forever.
        return self._end_of_text(segments, request)

    def _skip_ended_clips(self) -> None:
        while self._clips and self.seek >= self._clips[0][1]:
            self._clips.pop(0)
            if self._clips:
                self.seek = self._clips[0][0]

    def _asked(self) -> WindowRequest:
        if self._request is None:
            raise RuntimeError("there is no window; ask next_window() first")
        return self._request

    def _end_of_text(self, segments: Sequence[Segment], request: WindowRequest) -> int:
        """Where to go on after a window that is done by its own account.

        That is its end; but its last segment's, where that much speech after it would be lost: a
        model sometimes ends a window after its first sentence.
        """
        end = request.seek + request.n_frames
        rate = self._spec.audio.frames_per_second
        if self._speech is None or self._options.without_timestamps:
            return end
        text_end = max((s.end for s in segments if s.text.strip()), default=0.0)
        go_on = round(text_end * rate)
        is_lost = self._speech.seconds(text_end, end / rate) >= LOST_SPEECH
        return go_on if is_lost and go_on > request.seek else end

    def _place_words(
        self,
        segments: list[Segment],
        timings: Sequence[WordTiming],
        cut: WindowCut,
        request: WindowRequest,
    ) -> tuple[list[Segment], bool]:
        """Give segments their words, drop what was probably not said, and move `seek` accordingly.

        Returns:
            The segments left, and whether the window counts as skipped.
        """
        options, audio = self._options, self._spec.audio
        place = WindowPlace(request.seek, request.n_frames, self._n_frames, audio)
        segments = add_words(
            segments,
            timings,
            eot=self._spec.tokens.eot,
            offset=place.start,
            last_speech_end=self._last_speech_end,
            prepended=options.prepend_punctuations,
            appended=options.append_punctuations,
        )
        threshold = options.hallucination_silence_threshold
        end = last_word_end(segments)
        is_left = self.seek >= request.seek + request.n_frames
        # Without timestamps a window's text is all of it, also where its last word ends early:
        # openai/whisper goes back to that word, hears the rest alone, and makes words up for it.
        is_whole = options.without_timestamps or (cut.ends_on_single and is_left)
        if end is not None and end > place.start and not is_whole:
            if threshold is not None and place.full_end - end <= threshold:
                self.seek = request.seek + request.n_frames
            else:
                self.seek = round(end * audio.frames_per_second)
        is_skipped = False
        if threshold is not None:
            verdict = judge(segments, place, threshold, self._last_speech_end)
            segments = segments[: verdict.n_kept]
            self.seek = self.seek if verdict.seek is None else verdict.seek
            is_skipped = verdict.is_lead
        if self.seek <= request.seek:
            self.seek = request.seek + request.n_frames
        end = last_word_end(segments)
        if end is not None:
            self._last_speech_end = end
        return segments, is_skipped

    def _text(self, segment: Segment) -> list[int]:
        """Return a segment's tokens without timestamps."""
        return [token for token in segment.tokens if token < self._spec.tokens.eot]

    def _previous(self) -> list[int]:
        """Return the tokens of the text before the window, as the options want them."""
        if not self._options.carry_initial_prompt:
            return self._history[self._reset_since :]
        # The slices are openai/whisper's: an initial prompt that fills the room keeps no history
        # in it only by the cut that make_prompt does.
        hints = hint_tokens(self._spec, self._tokenizer, self._options)
        room = self._spec.model.n_text_ctx // 2 - 1 - len(hints) - len(self._initial)
        since = max(len(self._initial), self._reset_since)
        kept = self._history[since:][-room:] if room > 0 or not hints else []
        return self._initial + kept

    def _why_silent(self, result: WindowResult) -> str:
        """The thresholds that made a window silent, in words."""
        why = f"no_speech_prob {result.no_speech_prob:.2f} is above "
        why += f"{self._options.no_speech_threshold:g}"
        if self._options.logprob_threshold is None:
            return why
        floor = f"{self._options.logprob_threshold:g}"
        return f"{why} and avg_logprob {result.avg_logprob:.2f} not above {floor}"

    def _segment(self, piece: Piece, request: WindowRequest, result: WindowResult) -> Segment:
        """Make a segment, its id still 0."""
        audio = self._spec.audio
        offset = request.seek * audio.hop_length / audio.sample_rate
        step = audio.frames_per_token * audio.hop_length / audio.sample_rate
        window = request.n_frames * audio.hop_length / audio.sample_rate
        start, end = piece.start * step, window if piece.end is None else piece.end * step
        if request.ends_in_silence and start < window:
            end = min(end, window)  # the next segment may begin there
        text = self._tokenizer.decode(t for t in piece.tokens if t < self._spec.tokens.eot)
        return Segment(
            id=0,
            seek=request.seek,
            start=offset + start,
            end=offset + end,
            text=text,
            tokens=piece.tokens,
            temperature=result.temperature,
            avg_logprob=result.avg_logprob,
            compression_ratio=result.compression_ratio,
            no_speech_prob=result.no_speech_prob,
            repetition=repetition(text),
        )


def _is_silent(result: WindowResult, options: TranscribeOptions) -> bool:
    """Whether a window is to be skipped: probably no speech, and no confident text."""
    if options.no_speech_threshold is None:
        return False
    floor = options.logprob_threshold
    is_confident = floor is not None and result.avg_logprob > floor
    return result.no_speech_prob > options.no_speech_threshold and not is_confident


def _cleared(segment: Segment) -> Segment:
    """Take text, tokens and words from a segment without length or text."""
    if segment.start != segment.end and segment.text.strip():
        return segment
    return replace(segment, text="", tokens=(), words=None if segment.words is None else ())
