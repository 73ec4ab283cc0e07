"""An artifact's weights and compiled graphs, brought to the device that runs them."""

from typing import TYPE_CHECKING, Any

from mwc.runtime.artifact import (
    Artifact,
    TargetEntry,
    check_hashes,
    map_weights,
    stored_weights,
)
from mwc.runtime.devices import device_memory
from mwc.runtime.errors import ArtifactError, MemoryShortage, first_line
from mwc.runtime.spec import GraphSignature

if TYPE_CHECKING:
    from max.driver import Device
    from max.engine import Model as CompiledGraph


def load_weights(artifact: Artifact, target: TargetEntry, device: "Device") -> dict[str, Any]:
    """The weights the target names, as MAX takes them: one copy for all graphs.

    On a CPU it is still backed by the mapped file; a GPU has it in its own memory.

    Raises:
        MemoryShortage: they do not fit into the GPU's memory.
    """
    from max.driver import Buffer
    from max.dtype import DType

    specs = {t.name: t for t in stored_weights(artifact, target.precision).tensors}
    mapped = map_weights(artifact, target.precision)
    wanted = {name for graph in target.graphs for name in graph.weights}
    if target.device != "cpu":
        _check_memory(sum(mapped[name].nbytes for name in wanted), target, device)
    weights = {
        name: Buffer.from_numpy(mapped[name]).view(DType.bfloat16, mapped[name].shape)
        if specs[name].dtype == "bfloat16"
        else mapped[name]
        for name in sorted(wanted)
    }
    if target.device == "cpu":
        return weights
    moved = {
        name: (value if isinstance(value, Buffer) else Buffer.from_numpy(value)).to(device)
        for name, value in weights.items()
    }
    device.synchronize()
    return moved


def load_graphs(
    artifact: Artifact, target: TargetEntry, device: "Device", weights: dict[str, Any]
) -> "dict[str, tuple[GraphSignature, CompiledGraph]]":
    """The entry points of a target by name, bound to its weights.

    Raises:
        ArtifactError: the compiled file is damaged, or MAX does not load it.
    """
    from max.engine import InferenceSession, read

    mef = artifact.file(target.mef)
    check_hashes(artifact, paths=[target.mef])  # MAX may crash on a damaged one
    remedy = f"convert {artifact.manifest.provenance.source} again"
    try:
        session = InferenceSession(devices=[device])
        graphs = session.init_all(read(mef), weights_registry=weights)
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{mef} does not load, though it is as it was written: {first_line(error)}; too little "
            f"memory or too few open files may be allowed here (ulimit -v, ulimit -n), or {remedy}."
        ) from error
    missing = [graph.name for graph in target.graphs if graph.name not in graphs]
    if missing:
        raise ArtifactError(f"{mef} lacks the graphs {', '.join(missing)}; {remedy}.")
    return {graph.name: (graph, graphs[graph.name]) for graph in target.graphs}


def _check_memory(needed: int, target: TargetEntry, device: "Device") -> None:
    """Refuse weights that the device has no room for."""
    free = device_memory(device)
    if needed > free:
        raise MemoryShortage(
            f"the {target.precision} weights need {needed / 2**30:.1f} GiB on {target.name}, where "
            f"{free / 2**30:.1f} GiB is free; free some, or convert a smaller model or precision."
        )
