"""One model in a process of its own, which transcribes what its fleet (`fleet.py`) hands it.

    python -m mwc.runtime.worker DESCRIPTOR JOB

Both sides speak in small tuples, the first item of which names the message:

    fleet to worker    ("run", options)  ("file", number, audio)  ("no more",)  ("stop",)
    worker to fleet    ("loaded", target)  ("want",)  ("result", number, found)
                       ("progress", done, total)  ("done", error or None)

A worker asks for a file when it has room for one, or on a GPU for one to hear ahead, so that few
are promised to a slow device while a fast one is idle. Between its questions the only message that
can come is "stop".
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Protocol

from mwc.runtime.audio import AudioInput
from mwc.runtime.errors import AudioError, Cancelled, MwcError
from mwc.runtime.progress import ProgressEvent


class ManyTranscriber(Protocol):
    """What a worker needs of a `Model`."""

    @property
    def target(self) -> str:
        """The name of the target that runs."""
        ...

    @property
    def transcribe_as_completed(self) -> Callable[..., Iterator[tuple[int, Any]]]:
        """See `Model.transcribe_as_completed`."""
        ...


class _Stopped:
    """The event that tells the model to stop: set once the fleet has said so."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        self.seen = False

    def is_set(self) -> bool:
        if not self.seen and self._connection.poll():
            self._connection.recv()  # nothing but ("stop",) can come now
            self.seen = True
        return self.seen


def serve(connection: "Connection[Any, Any]", open_model: Callable[[], ManyTranscriber]) -> None:
    """Load a model and work until the fleet hangs up."""
    try:
        model = open_model()
    except MwcError as error:
        connection.send(("done", error))
        return
    connection.send(("loaded", model.target))
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        if message[0] == "run":
            connection.send(("done", _run(connection, model, message[1])))


def _run(
    connection: "Connection[Any, Any]", model: ManyTranscriber, options: dict[str, Any]
) -> MwcError | None:
    """Transcribe files until there are no more; the error that ended it before, if any."""
    stopped = _Stopped(connection)
    numbers: list[int] = []

    def files() -> Iterator[AudioInput]:
        while not stopped.is_set():
            connection.send(("want",))
            kind, *given = connection.recv()
            stopped.seen = kind == "stop"
            if kind != "file":
                return
            number, audio = given
            numbers.append(number)
            yield audio

    def progress(event: ProgressEvent) -> None:
        if event.stage == "transcribe":
            connection.send(("progress", event.done, event.total))

    try:
        completed = model.transcribe_as_completed(
            files(), progress=progress, cancel=stopped, **options
        )
        for i, found in completed:
            connection.send(("result", numbers[i], _sendable(found)))
    except MwcError as error:
        return type(error)(str(error))
    return Cancelled("the transcription was cancelled.") if stopped.seen else None


def _sendable(found: Any) -> Any:
    """Without what cannot be sent: an error's cause, which may hold anything."""
    return AudioError(str(found)) if isinstance(found, AudioError) else found


def main(arguments: list[str]) -> None:
    """Serve the connection that was inherited as a file descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the fleet's, which ends this process
    descriptor, job = int(arguments[0]), json.loads(arguments[1])
    if job["cpus"]:
        os.sched_setaffinity(0, job["cpus"])

    def open_model() -> ManyTranscriber:
        from mwc.runtime.model import load

        return load(job["path"], device=job["device"], threads=job["threads"])

    try:
        serve(Connection(descriptor), open_model)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the fleet is gone


if __name__ == "__main__":
    main(sys.argv[1:])
