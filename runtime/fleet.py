"""Several devices under one front: a process with a model for each, files to whichever has room.

One process drives one GPU well, and one set of CPU threads works best within the cores that share a
memory (a NUMA node). So a fleet starts a process per device; compiled code and weights are one
artifact, whose mapped pages all processes share.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mwc.runtime.artifact import open_artifact
from mwc.runtime.audio import AudioInput
from mwc.runtime.devices import accelerator_names
from mwc.runtime.errors import AudioError, BusyError, Cancelled, DeviceError, OptionError
from mwc.runtime.options import make_options
from mwc.runtime.platform import cpus_by_node
from mwc.runtime.progress import Progress, ProgressEvent, silent
from mwc.runtime.stop import Event
from mwc.runtime.transcript import Transcript

TRIES = 2
"""Devices that a file is given to: two that failed with it are enough."""

PATIENCE = 0.1
"""Seconds between two looks at whether the caller wants to stop."""

Found = Transcript | AudioError


@dataclass(eq=False)
class Worker:
    """One process with a model, seen from the fleet.

    Attributes:
        device: as the caller named it.
        connection: to it.
        process: its process; None in tests.
        busy: whether it is in a run.
        holds: the files it was given and has not answered.
        progress: seconds of audio done, and of all it has opened.
    """

    device: str
    connection: "Connection[Any, Any]"
    process: "subprocess.Popen[bytes] | None" = None
    busy: bool = False
    holds: dict[int, AudioInput] = field(default_factory=dict)
    progress: tuple[float, float] = (0.0, 0.0)


def load_fleet(
    path: str | Path, devices: str | Sequence[str] = "all", threads: int | None = None
) -> "Fleet":
    """Load an artifact on several devices, in a process each.

    Args:
        path: the folder `mwc convert` wrote.
        devices: "all" for every GPU here that the artifact has code for, or names as for `load`:
            "gpu:0" and "gpu:1", or "cpu" several times, for which this process's CPUs are shared
            out, those of a NUMA node together.
        threads: CPU threads of each process; None for all of its CPUs.

    Raises:
        ArtifactError, TargetError, OptionError: as for `load`.
        DeviceError: a process ended while it loaded.
    """
    artifact = open_artifact(path)
    if isinstance(devices, str):
        names = accelerator_names(artifact) if devices == "all" else tuple(devices.split(","))
    else:
        names = tuple(devices)
    if not names or not all(names):
        raise OptionError(f"devices is {devices!r}; it takes all, or at least one device.")
    shares = iter(_shares(names.count("cpu")))
    workers = [
        _start(artifact.path, name, next(shares) if name == "cpu" else [], threads)
        for name in names
    ]
    return Fleet(workers)


def _shares(n: int) -> list[list[int]]:
    """The CPUs that each of `n` CPU workers gets: all of them, cut in equal parts."""
    cpus = cpus_by_node()
    if n > len(cpus):
        raise OptionError(
            f"devices names the CPU {n} times; this process may use {len(cpus)} CPUs, so at most "
            f"{len(cpus)} times is allowed."
        )
    return [list(map(int, share)) for share in np.array_split(cpus, n)] if n else []


def _start(path: Path, device: str, cpus: list[int], threads: int | None) -> Worker:
    ours, theirs = socket.socketpair()
    job = {"path": str(path), "device": device, "cpus": cpus, "threads": threads}
    descriptor = theirs.detach()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "mwc.runtime.worker", str(descriptor), json.dumps(job)],
            stdin=subprocess.DEVNULL,
            pass_fds=[descriptor],
        )
    finally:
        os.close(descriptor)
    return Worker(device, Connection(ours.detach()), process)


class Fleet:
    """Models on several devices; use it in a `with` statement, or `close` it."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        """Wait until every worker has loaded its model; `load_fleet` starts them."""
        self._workers = list(workers)
        self._targets: list[str] = []
        try:
            for worker in self._workers:
                message = receive(worker)
                if message is None:
                    raise DeviceError(
                        f"the process for {worker.device} ended while it loaded the model."
                    )
                kind, answer = message
                if kind != "loaded":
                    raise answer
                self._targets.append(answer)
        except BaseException:
            self.close()
            raise

    @property
    def targets(self) -> tuple[str, ...]:
        """The name of the target that runs on each device."""
        return tuple(self._targets)

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, and what they are doing."""
        for worker in self._workers:
            end(worker)
        self._workers = []

    def transcribe_many(
        self,
        audios: Iterable[AudioInput],
        *,
        progress: Progress = silent,
        cancel: Event | None = None,
        skip_errors: bool = False,
        **options: Any,
    ) -> Iterator[Found]:
        """Transcribe files on all devices; gives transcripts in the files' order.

        Arguments and errors as for `Model.transcribe_many`, and each file's transcript is the same
        as there; `audios` are paths, bytes, binary files or samples. A device that fails leaves
        its files to the others.

        Raises:
            BusyError: an iterator of the fleet is still open.
            DeviceError: the last device failed.
        """
        make_options(**options)
        if not self._workers:
            raise DeviceError("no device is left: the fleet was closed, or all of them failed.")
        return _Run(self, self._workers, iter(audios), progress, cancel, skip_errors).results(
            options
        )

    def lose(self, worker: Worker) -> None:
        """Do without a worker from now on."""
        end(worker)
        self._workers.remove(worker)


def receive(worker: Worker) -> Any:
    """A worker's next message; None if it is gone."""
    try:
        return worker.connection.recv()
    except (EOFError, OSError):
        return None


def end(worker: Worker) -> None:
    """End a worker's process."""
    worker.connection.close()
    if worker.process is not None:
        worker.process.kill()
        worker.process.wait()


class _Run:
    """One `transcribe_many` of a fleet."""

    def __init__(
        self,
        fleet: Fleet,
        workers: list[Worker],
        audios: Iterator[AudioInput],
        progress: Progress,
        cancel: Event | None,
        skip_errors: bool,
    ) -> None:
        self._fleet = fleet
        self._workers = workers
        self._audios = enumerate(audios)
        self._progress = progress
        self._cancel = cancel
        self._skip_errors = skip_errors
        self._again: deque[tuple[int, AudioInput]] = deque()
        self._tries: dict[int, int] = {}
        self._found: dict[int, Found] = {}
        self._next = 0

    def results(self, options: dict[str, Any]) -> Generator[Found, None, None]:
        """Work, and give what is next in order as soon as it is there."""
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
                    self._hear(worker)
                if self._again:
                    self._begin(options)
                yield from self._in_order()
        finally:
            self._stop()

    def _begin(self, options: dict[str, Any]) -> None:
        """Have every idle worker ask for files."""
        for worker in [w for w in self._workers if not w.busy]:
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
            self._found[number] = found
        elif kind == "progress":
            worker.progress = (rest[0], rest[1])
            done, total = (sum(w.progress[i] for w in self._workers) for i in (0, 1))
            self._progress(ProgressEvent("transcribe", done, total, "seconds"))
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
                self._found[number] = error
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

    def _lose(self, worker: Worker, error: DeviceError | None) -> None:
        """Go on without a worker: its files go to others, but for those that may be why."""
        self._fleet.lose(worker)
        why = str(error) if error else f"the process for {worker.device} ended unexpectedly."
        if not self._workers:
            raise DeviceError(why)
        for number, audio in worker.holds.items():
            if self._tries[number] < TRIES:
                self._again.append((number, audio))
            else:
                name = audio if isinstance(audio, str | Path) else f"file {number + 1}"
                self._found[number] = AudioError(
                    f"{name} was under way on {TRIES} devices when they failed, the last time "
                    f"because {why}"
                )
        worker.holds = {}

    def _in_order(self) -> Iterator[Found]:
        while self._next in self._found:
            found = self._found.pop(self._next)
            self._next += 1
            if isinstance(found, AudioError) and not self._skip_errors:
                raise found
            yield found

    def _stop(self) -> None:
        """Have every worker idle again, whatever it was doing."""
        for worker in [w for w in self._workers if w.busy]:
            self._send(worker, ("stop",))
        for worker in [w for w in self._workers if w.busy]:
            message = None
            while message is None or message[0] != "done":
                message = receive(worker)
                if message is None:
                    self._fleet.lose(worker)
                    break
            worker.busy, worker.holds = False, {}


def _sendable(audio: Any) -> Any:
    """An input that can be sent to another process: what a file object holds instead of it."""
    if hasattr(audio, "read"):
        return audio.read()
    if isinstance(audio, str | Path | bytes | bytearray | np.ndarray | tuple):
        return audio
    raise AudioError(
        f"audio is a {type(audio).__name__}; several devices take paths, bytes, binary files or "
        "samples."
    )
