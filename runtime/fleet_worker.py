"""A process with a model (`worker.py`), as the fleet sees it: started, heard and ended."""

import json
import os
import socket
import subprocess
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mwc.runtime.audio import AudioInput
from mwc.runtime.child import child_command


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


def start_worker(path: Path, device: str, cpus: list[int], threads: int | None) -> Worker:
    """Start a process that loads an artifact on a device; on these CPUs, if any are given."""
    ours, theirs = socket.socketpair()
    job = {"path": str(path), "device": device, "cpus": cpus, "threads": threads}
    descriptor = theirs.detach()
    try:
        process = subprocess.Popen(
            [*child_command("mwc.runtime.worker"), str(descriptor), json.dumps(job)],
            stdin=subprocess.DEVNULL,
            pass_fds=[descriptor],
        )
    finally:
        os.close(descriptor)
    return Worker(device, Connection(ours.detach()), process)


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
