"""One call of a fleet: files go to whichever worker has room, transcripts come as they are done."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from mwc.runtime.audio import AudioInput, open_audio, read_whole
from mwc.runtime.completed import Completed
from mwc.runtime.errors import AudioError, BusyError, Cancelled, DeviceError, MemoryShortage
from mwc.runtime.fleet_worker import Worker, receive
from mwc.runtime.progress import Progress, ProgressEvent
from mwc.runtime.stop import Event

TRIES = 2
"""Devices that a file is given to: two that failed with it are enough."""

PATIENCE = 0.1
"""Seconds between two looks at whether the caller wants to stop."""


class FleetRun:
    """One `transcribe_as_completed` of a fleet."""

    def __init__(
        self,
        workers: list[Worker],
        lose: Callable[[Worker], None],
        audios: Iterator[AudioInput],
        progress: Progress,
        cancel: Event | None,
    ) -> None:
        self._workers = workers
        self._lose_worker = lose
        self._audios = enumerate(audios)
        self._progress = progress
        self._cancel = cancel
        self._again: deque[tuple[int, AudioInput]] = deque()
        self._tries: dict[int, int] = {}
        self._done: deque[Completed] = deque()
        self._too_small: set[Worker] = set()

    def completed(self, options: dict[str, Any]) -> Generator[Completed, None, None]:
        """Work, and give each file's number and transcript as soon as it is there.

        Raises:
            BusyError: workers are at the files of another run.
            Cancelled: the caller wants no more.
            DeviceError: no worker is left, or the fleet was closed.
            MemoryShortage: the memory of none that is left does for the options.
        """
        if any(worker.busy for worker in self._workers):
            raise BusyError(
                "the fleet is still transcribing; take all of its transcripts or close their "
                "iterator first, or load another fleet."
            )
        try:
            self._begin(options)
            while any(worker.busy for worker in self._workers):
                if self._cancel is not None and self._cancel.is_set():
                    raise Cancelled("the transcription was cancelled.")
                ready = wait([w.connection for w in self._workers if w.busy], PATIENCE)
                for worker in [w for w in self._workers if w.connection in ready]:
                    if worker in self._workers:  # else the fleet was closed meanwhile
                        self._hear(worker)
                    while self._done:
                        yield self._done.popleft()
                if self._again:
                    self._begin(options)
            if not self._workers:
                raise DeviceError("the fleet was closed while it transcribed.")
        finally:
            self._stop()

    def _begin(self, options: dict[str, Any]) -> None:
        """Have every idle worker ask for files."""
        for worker in [w for w in self._able() if not w.busy]:
            worker.busy, worker.progress = True, (0.0, 0.0)
            self._send(worker, ("run", options))

    def _hear(self, worker: Worker) -> None:
        """Take one message of a worker."""
        kind, *rest = receive(worker) or ("lost",)
        if kind == "want":
            self._give(worker)
        elif kind == "result":
            number, found = rest
            del worker.holds[number]
            self._done.append((number, found))
        elif kind == "progress":
            worker.progress = (rest[0], rest[1])
            done, total = (sum(w.progress[i] for w in self._workers) for i in (0, 1))
            self._progress(ProgressEvent("transcribe", done, total, "seconds"))
        elif kind == "done" and isinstance(rest[0], MemoryShortage):
            worker.busy = False
            self._do_without(worker, rest[0])
        elif kind == "done" and not isinstance(rest[0], DeviceError):
            worker.busy = False
            if rest[0] is not None:
                raise rest[0]
        else:
            self._lose(worker, rest[0] if rest else None)

    def _give(self, worker: Worker) -> None:
        """Answer a worker that has room."""
        for number, audio in self._waiting():
            try:
                audio = _sendable(audio)
            except AudioError as error:
                self._done.append((number, error))
                continue
            worker.holds[number] = audio
            self._tries[number] = self._tries.get(number, 0) + 1
            self._send(worker, ("file", number, audio))
            return
        self._send(worker, ("no more",))

    def _waiting(self) -> Iterator[tuple[int, AudioInput]]:
        while self._again:
            yield self._again.popleft()
        yield from self._audios

    def _send(self, worker: Worker, message: tuple[Any, ...]) -> None:
        # A worker that is gone is noticed, with all it holds, when it is listened to.
        with contextlib.suppress(OSError):
            worker.connection.send(message)

    def _able(self) -> list[Worker]:
        """The workers that files of this run can go to."""
        return [worker for worker in self._workers if worker not in self._too_small]

    def _do_without(self, worker: Worker, error: MemoryShortage) -> None:
        """Leave what a worker has no memory for to the others; another run may suit it."""
        self._too_small.add(worker)
        if not self._able():
            raise error
        for number, audio in worker.holds.items():
            self._tries[number] -= 1
            self._again.append((number, audio))
        worker.holds = {}

    def _lose(self, worker: Worker, error: DeviceError | None) -> None:
        """Go on without a worker: its files go to others, but for those that may be why."""
        self._lose_worker(worker)
        why = str(error) if error else f"the process for {worker.device} ended unexpectedly."
        if not self._able():
            raise DeviceError(why)
        for number, audio in worker.holds.items():
            if self._tries[number] < TRIES:
                self._again.append((number, audio))
            else:
                name = audio if isinstance(audio, str | Path) else f"file {number + 1}"
                given_up = AudioError(
                    f"{name} was under way on {TRIES} devices when they failed, the last time "
                    f"because {why}"
                )
                self._done.append((number, given_up))
        worker.holds = {}

    def _stop(self) -> None:
        """Have every worker idle again, whatever it was doing."""
        for worker in [w for w in self._workers if w.busy]:
            self._send(worker, ("stop",))
        for worker in [w for w in self._workers if w.busy]:
            message = None
            while message is None or message[0] != "done":
                message = receive(worker)
                if message is None:
                    self._lose_worker(worker)
                    break
            worker.busy, worker.holds = False, {}


def _sendable(audio: Any) -> Any:
    """An input that can be sent to another process: what a file object holds instead of it.

    Raises:
        AudioError: it cannot be read, or is none of what `open_audio` takes.
    """
    if isinstance(audio, str | os.PathLike):
        return os.fspath(audio)
    if isinstance(audio, bytes | bytearray | memoryview):
        return bytes(audio)
    if hasattr(audio, "read"):
        return read_whole(audio)
    open_audio(audio)  # refuses what is no samples
    return audio
