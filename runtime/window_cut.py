"""Where a window's tokens are cut into segments, and where the next window starts.

Source: openai/whisper `whisper/transcribe.py`, `transcribe`, from `timestamp_tokens` on.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A part of a window's tokens that makes one segment, in 20 ms steps from the window."""

    tokens: tuple[int, ...]
    start: int
    end: int | None


@dataclass(frozen=True)
class WindowCut:
    """How a window's tokens fall into pieces.

    Attributes:
        pieces: the segments; one whose `end` is None lasts to the end of the window.
        advance: 20 ms steps to the next window; None for the whole window.
        ends_on_single: whether the last token alone is a timestamp: nothing was said after it.
    """

    pieces: tuple[Piece, ...]
    advance: int | None
    ends_on_single: bool


def cut_window(
    tokens: Sequence[int], timestamp_begin: int, *, keeps_tail: bool = False
) -> WindowCut:
    """Cut a window's tokens where two timestamps meet.

    Tokens after the last such place are an unfinished segment, left to the next window, unless a
    single timestamp ends them: then nothing was said after it. Without such a place all tokens are
    one segment from the window's start to its last timestamp, or to its end. A first token that is
    no timestamp (possible only without the timestamp rules) starts at the window.

    With `keeps_tail` text at the end is a segment too, which lasts to the end of the window: for a
    window that ends in silence, where nothing is unfinished.
    """
    is_timestamp = [token >= timestamp_begin for token in tokens]
    ends_on_single = is_timestamp[-2:] == [False, True]
    cuts = [i for i in range(1, len(tokens)) if is_timestamp[i - 1] and is_timestamp[i]]
    if not cuts:
        times = [token for token in tokens if token >= timestamp_begin]
        end = times[-1] - timestamp_begin if times else 0
        return WindowCut((Piece(tuple(tokens), 0, end or None),), None, ends_on_single)
    if ends_on_single:
        cuts.append(len(tokens))
    pieces = [
        Piece(
            tuple(tokens[start:end]),
            max(tokens[start] - timestamp_begin, 0),
            tokens[end - 1] - timestamp_begin,
        )
        for start, end in zip([0, *cuts[:-1]], cuts, strict=True)
    ]
    tail = tuple(tokens[cuts[-1] :])
    if keeps_tail and len(tail) > 1:
        pieces.append(Piece(tail, tail[0] - timestamp_begin, None))
        return WindowCut(tuple(pieces), None, ends_on_single)
    advance = None if ends_on_single else tokens[cuts[-1] - 1] - timestamp_begin
    return WindowCut(tuple(pieces), advance, ends_on_single)
