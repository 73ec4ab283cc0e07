"""Which devices are here, and which an artifact has code for. Imports MAX where it must."""

from typing import TYPE_CHECKING

from mwc.runtime.artifact import Artifact, missing_features, runs_on, select_target
from mwc.runtime.errors import OptionError

if TYPE_CHECKING:
    from max.driver import Device


def runnable_targets(artifact: Artifact) -> tuple[str, ...]:
    """Names of the targets that this machine can run, in the artifact's order."""
    present = accelerators(artifact, None)
    return tuple(
        target.name
        for target in artifact.manifest.targets
        if any(runs_on(target, *accelerator) for accelerator in present)
        or (target.device == "cpu" and not missing_features(target))
    )


def parse_device(device: str) -> tuple[str, int | None]:
    """A device and which of several it is: "gpu:1" is ("gpu", 1), "auto" is ("auto", None).

    Raises:
        OptionError: what follows "gpu:" is no number.
    """
    kind, colon, index = device.partition(":")
    if kind != "gpu" or not colon:
        return device, None
    if not index.isdecimal():
        raise OptionError(f"device is {device!r}; the first GPU is gpu:0, the second gpu:1.")
    return kind, int(index)


def accelerator_names(artifact: Artifact) -> tuple[str, ...]:
    """ "gpu:0" and so on: every accelerator that the artifact has code for.

    Raises:
        TargetError: there is none.
    """
    names = tuple(
        f"gpu:{index}"
        for index, accelerator in enumerate(accelerators(artifact, None))
        if any(runs_on(target, *accelerator) for target in artifact.manifest.targets)
    )
    if not names:
        select_target(artifact, "gpu", ())  # says what is missing
    return names


def accelerators(artifact: Artifact, index: int | None) -> tuple[tuple[str, str], ...]:
    """(API, architecture) of the accelerators at hand, or of the one with that index.

    They are not asked for where no target needs one.
    """
    if all(target.device == "cpu" for target in artifact.manifest.targets):
        return ()
    from max.driver import Accelerator, accelerator_api, accelerator_count

    api, indices = accelerator_api(), range(accelerator_count())
    return tuple((api, Accelerator(i).architecture_name) for i in indices if index in (None, i))


def open_accelerator(index: int | None) -> "Device":
    """The accelerator with that index; None for the first."""
    from max.driver import Accelerator

    return Accelerator() if index is None else Accelerator(index)
