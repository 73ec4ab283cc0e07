"""The stretches of a file that are heard: as asked for, where there is speech, cut at silences.

A clip is a pair of log-mel frames of 10 ms (`speech.Clip`).
"""

from collections.abc import Sequence

import numpy as np

from mwc.runtime.decoder import VAD_FRAME
from mwc.runtime.errors import AudioError
from mwc.runtime.features import WINDOW_FRAMES
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.spec import HOP_LENGTH, SAMPLE_RATE, WhisperSpec
from mwc.runtime.speech import Clip, Speech
from mwc.runtime.vad import VadOptions

FIRST_CUT, LAST_CUT = 2400, WINDOW_FRAMES
"""Frames from the start of a window of a batch between which it is cut: 24 to 30 s."""

SHORTEST = 1000
"""Frames that the last two windows have at least where the rest is cut in two: 10 s. Of windows
that hold little, models make things up."""

CHAINED = 3
"""Windows of a batch that know the text before them, the first of them apart, where that is asked
for: more of them make fewer parts to decode side by side."""

SILENT = 0.35
"""Probability of speech below which a place counts as silence (Silero's 0.5 less its 0.15)."""

WORTH_LEAVING_OUT = 300
"""Frames of silence below which it is heard with what is around it: windows that are cut short at
every pause cost more time, and more words, than they save."""

FILTER = VadOptions()
"""How speech is detected that is to be heard: gaps of less than 2 s stay, 0.4 s around it too."""


def requested_clips(
    options: TranscribeOptions, spec: WhisperSpec, n_frames: int, name: str
) -> list[Clip]:
    """Return the clips of `clip_timestamps`, cut off at the end of the audio of that name.

    Raises:
        AudioError: a clip starts beyond the audio.
    """
    rate = spec.audio.frames_per_second
    points = [round(time * rate) for time in options.clip_timestamps] or [0]
    if len(points) % 2:
        points.append(n_frames)
    clips = list(zip(points[::2], points[1::2], strict=True))
    for start, _ in clips:
        if start and start >= n_frames:
            raise AudioError(
                f"clip_timestamps has a clip that starts at {start / rate:g} s, but {name} ends "
                f"after {n_frames / rate:g} s; give times within it"
            )
    return [(start, min(end, n_frames)) for start, end in clips]


def clip_notes(options: TranscribeOptions, spec: WhisperSpec, n_frames: int) -> tuple[str, ...]:
    """Tell which clip reaches beyond the end of the audio."""
    rate = spec.audio.frames_per_second
    beyond = [end for end in options.clip_timestamps[1::2] if round(end * rate) > n_frames]
    if not beyond:
        return ()
    return (
        f"clip_timestamps has a clip that ends at {beyond[0]:g} s, but the audio ends after "
        f"{n_frames / rate:g} s: it is heard to there",
    )


def heard_parts(
    clips: Sequence[Clip], options: TranscribeOptions, speech: Speech
) -> list[list[Clip]]:
    """Cut clips down to what is to be heard, and into parts to be decoded side by side.

    That is speech with `vad_filter`; all in one part, unless a batch wants several.
    """
    if options.vad_filter:
        found = _found(options, speech)
        clips = [part for clip in clips for part in _merge(_intersect(clip, found))]
    if not options.cuts_at_silences:
        return [list(clips)]
    windows = [window for clip in clips for window in cut_at_silences(clip, speech)]
    n_chained = CHAINED if options.condition_on_previous_text else 1
    return [windows[i : i + n_chained] for i in range(0, len(windows), n_chained)]


def _found(options: TranscribeOptions, speech: Speech) -> list[Clip]:
    """Where there is speech, by `vad_parameters`; without them, a lone noise is none.

    The defaults keep any noise of one frame, so as to lose no word: a stretch in which closer
    listening finds nothing is dropped.
    """
    if options.vad_parameters is not None:
        return speech.clips(options.vad_parameters)
    rate = SAMPLE_RATE // HOP_LENGTH
    return [
        clip for clip in speech.clips(FILTER) if speech.seconds(clip[0] / rate, clip[1] / rate) > 0
    ]


def cut_at_silences(clip: Clip, speech: Speech) -> list[Clip]:
    """Cut a clip into windows, each at the longest silence of its last 6 s.

    The last cut has more silences to choose from, as long as two windows hold the rest. How many
    are decoded together plays no part in it, so that it changes no transcript.
    """
    start, end = clip
    windows = []
    while (left := end - start) > LAST_CUT:
        first = min(max(left - LAST_CUT, SHORTEST), FIRST_CUT)
        last = min(LAST_CUT, left - SHORTEST)
        cut = best_cut(speech, start + first, start + last)
        windows.append((start, cut))
        start = cut
    return [*windows, (start, end)] if end > start else windows


def best_cut(speech: Speech, first: int, last: int) -> int:
    """The frame in [first, last] in the middle of the longest silence, or where speech is least."""
    low = first * HOP_LENGTH // VAD_FRAME + 1
    high = last * HOP_LENGTH // VAD_FRAME
    values = speech.probabilities[low:high]
    if not len(values):
        return last
    silent = np.flatnonzero(np.diff(np.concatenate([[0], values < SILENT, [0]])))
    runs = list(zip(silent[::2].tolist(), silent[1::2].tolist(), strict=True))
    if runs:
        begin, stop = max(runs, key=lambda run: (run[1] - run[0], run[0]))
        place = low + (begin + stop) / 2
    else:
        place = high - int(np.argmin(values[::-1])) - 0.5  # the last of equal ones
    frame: int = round(place * VAD_FRAME / HOP_LENGTH)
    return min(frame, last)


def _intersect(clip: Clip, others: Sequence[Clip]) -> list[Clip]:
    """The parts of a clip that lie in others, which are ascending and apart."""
    cut = [(max(clip[0], start), min(clip[1], end)) for start, end in others]
    return [(start, end) for start, end in cut if start < end]


def _merge(clips: Sequence[Clip]) -> list[Clip]:
    """Join neighbours with a short silence between, or that one window holds together."""
    merged: list[Clip] = list(clips[:1])
    for start, end in clips[1:]:
        first, last = merged[-1]
        if start - last < WORTH_LEAVING_OUT or end - first <= WINDOW_FRAMES:
            merged[-1] = (first, end)
        else:
            merged.append((start, end))
    return merged
