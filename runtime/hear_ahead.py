"""Files heard in their order, a few of them before they are asked for, in threads of their own.

What a file goes through before it is decoded, FFmpeg's decoder, the resampler and much copying, is
the CPU's work, and a GPU waits for it where it is done file by file.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event
from typing import TypeVar

import numpy as np

from mwc.runtime.errors import AudioError, Cancelled
from mwc.runtime.stop import Stop

Audio = TypeVar("Audio")
Heard = TypeVar("Heard")

PATIENCE = 0.1
"""Seconds between two looks at whether the caller wants to stop."""


def hear_ahead(
    audios: Iterable[Audio], hear: Callable[[Audio, Stop], Heard], n_ahead: int, stop: Stop
) -> Generator[Heard | AudioError, None, None]:
    """Hear files; each gives what `hear` makes of it, or the AudioError it raises, in order.

    Nothing is waited for when this is closed: what is being heard then is told to stop.

    Args:
        audios: the files; they are taken by the thread that asks for what was heard, up to
            `n_ahead` more than it has asked for.
        hear: reads a file through, and asks from time to time whether to stop.
        n_ahead: how many files are heard ahead, each in a thread; with 0 each is heard by the
            thread that asks for it. So is what might not stay as it is, with none behind it taken.
        stop: asked while a file is waited for.

    Raises:
        Cancelled: `stop` said so.
        Others as `audios`, or `hear` in the place of the file.
    """
    stay = isinstance(audios, list | tuple)
    waiting: deque[Future[Heard | AudioError]] = deque()
    left = Event()
    threads = ThreadPoolExecutor(max(1, n_ahead), thread_name_prefix="mwc-hear")
    try:
        for audio in audios:
            if n_ahead and _stays(audio, stay):
                waiting.append(threads.submit(_heard, hear, audio, left.is_set))
                if len(waiting) > n_ahead:
                    yield _awaited(waiting.popleft(), stop)
                continue
            while waiting:
                yield _awaited(waiting.popleft(), stop)
            yield _heard(hear, audio, stop)
        while waiting:
            yield _awaited(waiting.popleft(), stop)
    finally:
        left.set()
        threads.shutdown(wait=False, cancel_futures=True)


def _stays(audio: object, samples_stay: bool) -> bool:
    """Whether a file can be read after others have been taken, and beside them.

    What makes files one by one may close one that it gave, or put other samples into the same
    array, when it is asked for the next; and an open file, or source, is for one reader at a time.
    """
    if isinstance(audio, str | os.PathLike | bytes):
        return True
    samples = audio[0] if isinstance(audio, tuple) and audio else audio
    return samples_stay and isinstance(samples, np.ndarray)


def _heard(hear: Callable[[Audio, Stop], Heard], audio: Audio, stop: Stop) -> Heard | AudioError:
    try:
        return hear(audio, stop)
    except AudioError as error:
        return error


def _awaited(future: "Future[Heard | AudioError]", stop: Stop) -> Heard | AudioError:
    """What a thread made of a file, as soon as it is there."""
    while not wait([future], PATIENCE).done:
        if stop():
            raise Cancelled("the transcription was cancelled.")
    return future.result()
