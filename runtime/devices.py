"""Which devices are here, and which an artifact has code for. Imports MAX where it must."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mwc.runtime.artifact import (
    Artifact,
    TargetEntry,
    missing_features,
    runs_on,
    select_target,
)
from mwc.runtime.errors import OptionError, TargetError, first_line
from mwc.runtime.max_import import import_max
from mwc.runtime.platform import has_gpu_driver
from mwc.runtime.threads import open_cpu

if TYPE_CHECKING:
    from max.driver import Device


def runnable_targets(targets: Sequence[TargetEntry]) -> tuple[str, ...]:
    """Names of those targets that this machine can run, in their order.

    Raises:
        TargetError: one needs a GPU, and the driver does not answer.
    """
    present = accelerators(targets).values()
    return tuple(
        target.name
        for target in targets
        if any(runs_on(target, *accelerator) for accelerator in present)
        or (target.device == "cpu" and not missing_features(target))
    )


def parse_device(device: str) -> tuple[str, int | None]:
    """A device and which of several it is: "gpu:1" is ("gpu", 1), "auto" is ("auto", None).

    Raises:
        OptionError: it is no text, or what follows "gpu:" is no number.
    """
    if not isinstance(device, str):
        raise OptionError(f"device is {device!r}; it takes a name, for example cpu, gpu or auto.")
    kind, colon, index = device.partition(":")
    if kind != "gpu" or not colon:
        return device, None
    if not index.isdecimal():
        raise OptionError(f"device is {device!r}; the first GPU is gpu:0, the second gpu:1.")
    return kind, int(index)


def accelerator_names(artifact: Artifact) -> tuple[str, ...]:
    """The names, from "gpu:0" on, of the accelerators that the artifact has code for.

    Raises:
        TargetError: there is none.
    """
    present = accelerators(artifact.manifest.targets)
    select_target(artifact, "gpu", present.values())  # says what is missing
    return tuple(
        f"gpu:{index}"
        for index, accelerator in present.items()
        if any(runs_on(target, *accelerator) for target in artifact.manifest.targets)
    )


def accelerators(
    targets: Sequence[TargetEntry], device: str = "auto", index: int | None = None
) -> dict[int, tuple[str, str]]:
    """(API, architecture) of the accelerators at hand by their numbers.

    They are not asked for where no target needs one, or `device` is a CPU; with an `index` only
    that one is, as asking takes some of its memory.

    Raises:
        OptionError: there are accelerators, but none of that `index`.
        TargetError: their driver does not answer.
    """
    wanted = [target for target in targets if device in ("auto", "gpu", target.name)]
    if all(target.device == "cpu" for target in wanted):
        return {}
    import_max(for_gpu=has_gpu_driver())
    from max.driver import Accelerator, accelerator_api, accelerator_count

    try:
        api, count = accelerator_api(), accelerator_count()
        numbers = [i for i in range(count) if index in (None, i)]
        found = {i: (api, Accelerator(i).architecture_name) for i in numbers}
    except (RuntimeError, ValueError) as error:
        raise TargetError(
            f"the GPUs of this machine do not answer: {first_line(error)}; update their driver, or "
            "use the CPU (--device cpu)."
        ) from error
    if count and not found:
        names = ", ".join(f"gpu:{i}" for i in range(count))
        raise OptionError(f"device is 'gpu:{index}', which is not here; there is {names}.")
    return found


def device_memory(device: "Device") -> int:
    """Bytes that a GPU has left; those of all its memory where it does not tell."""
    stats = device.stats
    return int(stats["free_memory"]) or int(stats["total_memory"])


def open_device(
    target: TargetEntry, present: dict[int, tuple[str, str]], threads: int | None
) -> "Device":
    """The device that runs a target: the CPU, or the first accelerator whose code it is.

    Raises:
        OptionError: this process cannot have that many threads.
        TargetError: the accelerator cannot be opened.
    """
    cpu = open_cpu(threads)
    if target.device == "cpu":
        return cpu
    from max.driver import Accelerator

    index = next(i for i, accelerator in present.items() if runs_on(target, *accelerator))
    try:
        return Accelerator(index)
    except (RuntimeError, ValueError) as error:
        raise TargetError(
            f"gpu:{index} cannot be opened: {first_line(error)}; free it from other programs, or "
            "use another device."
        ) from error
