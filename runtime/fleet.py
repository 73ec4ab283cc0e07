"""Several devices under one front: a process with a model for each, files to whichever has room.

One process drives one GPU well, and one set of CPU threads works best within the cores that share a
memory (a NUMA node). So a fleet starts a process per device; compiled code and weights are one
artifact, whose mapped pages all processes share.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from mwc.runtime.artifact import open_artifact
from mwc.runtime.audio import AudioInput, check_several
from mwc.runtime.closing import Closing
from mwc.runtime.completed import Completed, in_order, raising
from mwc.runtime.devices import accelerator_names
from mwc.runtime.errors import AudioError, DeviceError, MemoryShortage, OptionError
from mwc.runtime.fleet_run import FleetRun
from mwc.runtime.fleet_worker import Worker, end, receive, start_worker
from mwc.runtime.options import make_options
from mwc.runtime.platform import cpus_by_node, usable_cpus
from mwc.runtime.progress import Progress, silent
from mwc.runtime.stop import Event
from mwc.runtime.transcript import Transcript


def load_fleet(
    path: str | Path, devices: str | Sequence[str] = "all", threads: int | None = None
) -> "Fleet":
    """Load an artifact on several devices, in a process each.

    Args:
        path: the folder `mwc convert` wrote.
        devices: "all" for every GPU here that the artifact has code for, and memory (others are
            `Fleet.left_out`), or names as for `load`:
            "gpu:0" and "gpu:1", or "cpu" several times, for which this process's CPUs are shared
            out, those of a NUMA node together.
        threads: CPU threads of each process; None for all of its CPUs.

    Raises:
        ArtifactError, TargetError, OptionError, MemoryShortage: as for `load`.
        DeviceError: a process ended while it loaded.
    """
    artifact = open_artifact(path)
    if isinstance(devices, str):
        names = accelerator_names(artifact) if devices == "all" else tuple(devices.split(","))
    else:
        names = tuple(devices) if isinstance(devices, Iterable) else ()
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise OptionError(f"devices is {devices!r}; it takes all, or at least one device.")
    names = tuple(name.strip() for name in names)
    on_cpu = [name.startswith("cpu") for name in names]
    shares = iter(_shares(sum(on_cpu)))
    workers = []
    for name, shared in zip(names, on_cpu, strict=True):
        cpus, most = next(shares) if shared else ([], None)
        workers.append(start_worker(artifact.path, name, cpus, threads or most))
    return Fleet(workers, leaves_out=devices == "all")


def _shares(n: int) -> list[tuple[list[int], int]]:
    """The CPUs that each of `n` CPU workers gets, all of them cut in equal parts, and its threads.

    Threads are as many as its CPUs, or its part of a control group's quota where that is less.
    """
    cpus, usable = cpus_by_node(), usable_cpus()
    if n > usable:
        raise OptionError(
            f"devices names the CPU {n} times; this process may use {usable} CPUs, so at most "
            f"{usable} times is allowed."
        )
    if n == 0:
        return []
    parts, turns = np.array_split(cpus, n), np.array_split(range(usable), n)
    return [(part.tolist(), len(turn)) for part, turn in zip(parts, turns, strict=True)]


class Fleet(Closing):
    """Models on several devices; use it in a `with` statement, or `close` it."""

    def __init__(self, workers: Sequence[Worker], *, leaves_out: bool = False) -> None:
        """Wait until every worker has loaded its model; `load_fleet` starts them.

        `leaves_out`: whether to do without those that have no memory for it, unless all do.
        """
        self._workers = list(workers)
        self._targets: list[str] = []
        self._left_out: list[str] = []
        try:
            for worker in workers:
                message = receive(worker)
                if message is None:
                    raise DeviceError(
                        f"the process for {worker.device} ended while it loaded the model."
                    )
                kind, answer = message
                if kind == "loaded":
                    self._targets.append(answer)
                elif leaves_out and isinstance(answer, MemoryShortage) and len(self._workers) > 1:
                    self._left_out.append(f"{worker.device} is left out: {answer}")
                    self.lose(worker)
                else:
                    raise answer
        except BaseException:
            self.close()
            raise

    @property
    def targets(self) -> tuple[str, ...]:
        """The name of the target that runs on each device."""
        return tuple(self._targets)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Of "all" devices those that have no memory for the model: a sentence for each."""
        return tuple(self._left_out)

    def close(self) -> None:
        """End the processes, and what they are doing."""
        for worker in self._workers:
            end(worker)
        self._workers.clear()

    def transcribe_many(
        self,
        audios: Iterable[AudioInput],
        *,
        progress: Progress = silent,
        cancel: Event | None = None,
        skip_errors: bool = False,
        **options: Any,
    ) -> Iterator[Transcript | AudioError]:
        """Transcribe files on all devices; gives transcripts in the files' order.

        Arguments and errors as for `Model.transcribe_many`, and each file's transcript is the same
        as there; `audios` are paths, bytes, binary files or samples. A device that fails, or whose
        memory does not do for these options, leaves its files to the others.

        Raises:
            BusyError: an iterator of the fleet is still open.
            DeviceError: the last device failed, or the fleet was closed.
            MemoryShortage: the memory of none that is left does for these options.
        """
        completed = self._completed(audios, progress, cancel, options)
        return in_order(completed) if skip_errors else raising(in_order(completed))

    def transcribe_as_completed(
        self,
        audios: Iterable[AudioInput],
        *,
        progress: Progress = silent,
        cancel: Event | None = None,
        **options: Any,
    ) -> Iterator[Completed]:
        """Transcribe files like `transcribe_many`, and give each, with its number, once it is done.

        As `Model.transcribe_as_completed`; errors as for `transcribe_many`.
        """
        return self._completed(audios, progress, cancel, options)

    def _completed(
        self,
        audios: Iterable[AudioInput],
        progress: Progress,
        cancel: Event | None,
        options: dict[str, Any],
    ) -> Generator[Completed, None, None]:
        chosen = make_options(**options)
        check_several(audios)
        if not self._workers:
            raise DeviceError("no device is left: the fleet was closed, or all of them failed.")
        return FleetRun(self._workers, self.lose, iter(audios), progress, cancel).completed(
            {field.name: getattr(chosen, field.name) for field in fields(chosen)}
        )

    def lose(self, worker: Worker) -> None:
        """Do without a worker from now on."""
        end(worker)
        if worker in self._workers:
            self._workers.remove(worker)
