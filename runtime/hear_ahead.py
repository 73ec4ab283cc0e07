"""Files heard in their order, a few of them before they are asked for, in threads of their own.

What a file goes through before it is decoded, FFmpeg's decoder, the resampler and much copying, is
the CPU's work, and a GPU waits for it where it is done file by file.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event
from typing import Generic, TypeVar

import numpy as np

from mwc.runtime.closing import Closing
from mwc.runtime.errors import AudioError, Cancelled
from mwc.runtime.stop import Stop

Audio = TypeVar("Audio")
Heard = TypeVar("Heard")

PATIENCE = 0.1
"""Seconds between two looks at whether the caller wants to stop."""

MOMENT = 0.02
"""Seconds that a file may come later than those before it without being late: what is heard in the
same calls of the model comes together, and a batch that waits for it begins with all of it."""


class HearAhead(Closing, Iterator[Heard | AudioError], Generic[Audio, Heard]):
    """Files as they are heard: what `hear` makes of each, or its AudioError, in their order."""

    def __init__(
        self,
        audios: Iterable[Audio],
        hear: Callable[[Audio, Stop], Heard],
        n_ahead: int,
        stop: Stop,
    ) -> None:
        """Take no file yet; close it when it is done with.

        Args:
            audios: the files; they are taken by the thread that asks for what was heard, up to
                `n_ahead` more than it has asked for.
            hear: reads a file through, and asks from time to time whether to stop.
            n_ahead: how many files are heard ahead, each in a thread; with 0 each is heard by the
                thread that asks for it. So is what might not stay as it is, with none behind it
                taken.
            stop: asked while a file is waited for.
        """
        self._audios = iter(audios)
        self._samples_stay = isinstance(audios, list | tuple)
        self._hear = hear
        self._n_ahead = n_ahead
        self._stop = stop
        self._being_heard: deque[Future[Heard | AudioError]] = deque()
        # What the caller is to hear once those before it have been given; at most one.
        self._to_hear: list[Audio] = []
        self._late: Future[Heard | AudioError] | None = None
        self._is_left = Event()
        self._threads = ThreadPoolExecutor(max(1, n_ahead), thread_name_prefix="mwc-hear")

    @property
    def is_next_here(self) -> bool:
        """Whether the next file of those that have been taken need not be waited for."""
        return self._being_heard[0].done() if self._being_heard else bool(self._to_hear)

    def is_next_late(self) -> bool:
        """Whether to do something else meanwhile; a file that has just been begun has a moment."""
        if not self.take_files() or self.is_next_here:
            return False
        first = self._being_heard[0]
        if self._late is not first and not wait([first], MOMENT).done:
            self._late = first
        return self._late is first

    def take_files(self) -> bool:
        """Have files taken as far ahead as may be; return whether there is one to ask for."""
        if not self._are_enough:
            for audio in self._audios:
                self._take(audio)
                if self._are_enough:
                    break
        return bool(self._being_heard or self._to_hear)

    def __next__(self) -> Heard | AudioError:
        """Wait for the next file, or hear it.

        Raises:
            Cancelled: `stop` said so.
            Others as `audios`, or `hear` in the place of the file.
        """
        if not self.take_files():
            raise StopIteration
        if self._being_heard:
            return _awaited(self._being_heard.popleft(), self._stop)
        return _heard(self._hear, self._to_hear.pop(), self._stop)

    @property
    def _are_enough(self) -> bool:
        return len(self._being_heard) > self._n_ahead or bool(self._to_hear)

    def _take(self, audio: Audio) -> None:
        if self._n_ahead and _stays(audio, self._samples_stay):
            heard = self._threads.submit(_heard, self._hear, audio, self._is_left.is_set)
            self._being_heard.append(heard)
        else:
            self._to_hear.append(audio)

    def close(self) -> None:
        """Want no more of it; nothing is waited for, what is being heard is told to stop."""
        self._is_left.set()
        self._threads.shutdown(wait=False, cancel_futures=True)


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
