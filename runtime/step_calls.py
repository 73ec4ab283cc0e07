"""Steps from kept inputs: on a CPU from shared memory, on a GPU as replayed device graphs."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mwc.runtime import scheduling
from mwc.runtime.decoder import Float32, StepBatch
from mwc.runtime.device_graph import DeviceGraph
from mwc.runtime.graph_caller import GraphCaller
from mwc.runtime.step_inputs import Mirror, StepInputs

if TYPE_CHECKING:
    from max.driver import Buffer
    from max.engine import Model as CompiledGraph

Array = npt.NDArray[Any]

ROWS_KEPT = 1024
"""Rows of all device graphs that are kept. Each row takes what its logits do, 0.2 MB in large-v3;
searches of up to 32 rows, whose number falls row by row, come to 528."""


class StepCalls:
    """Calls of `step` and `steps` whose inputs have been checked.

    Attributes:
        device_graphs: by entry point, rows and candidates, where steps are replayed; those used
            longest ago are let go when all have more than ROWS_KEPT rows.
    """

    def __init__(self, caller: GraphCaller, *, replays: bool) -> None:
        """Of a session; `replays`: as device graphs, from copies of the inputs on the device."""
        self.device_graphs: dict[tuple[str, int, int], DeviceGraph] = {}
        self._caller = caller
        self._replays = replays
        self._inputs: dict[tuple[str, int, int], StepInputs] = {}
        self._mirrors: dict[tuple[str, int, int], Mirror] = {}
        self._suppress: tuple[Float32, Buffer] | None = None

    def run(
        self, name: str, batch: StepBatch, suppress: Float32, n_candidates: int
    ) -> dict[str, Array] | None:
        """Run one; outputs by name. None, and nothing was run, where a shape is wrong.

        The same array of masks is taken to hold what it held before.
        """
        key = (name, len(batch.tokens), n_candidates)
        signature, graph = self._caller.graphs[name]
        with self._caller.reporting(name):
            buffers = self._filled(key, batch)
            if buffers is None:
                return None
            inputs = {**buffers, "suppress": self._kept_suppress(suppress)}
            arguments = self._caller.arguments(signature, inputs)
            if self._replays:
                results = scheduling.call(self._device_graph(key, graph, arguments).run, ())
            else:
                results = scheduling.call(graph.execute, arguments)
            return {
                spec.name: result.to_numpy()
                for spec, result in zip(signature.outputs, results, strict=True)
            }

    def forget(self) -> None:
        """Release the device graphs: the caches that they know are about to go."""
        for kept in self.device_graphs.values():
            kept.release()
        self.device_graphs.clear()

    def _filled(self, key: tuple[str, int, int], batch: StepBatch) -> "dict[str, Buffer] | None":
        """The inputs but for `suppress`, where the graph reads them."""
        from max.driver import Buffer

        if key not in self._inputs:
            signature, _ = self._caller.graphs[key[0]]
            made = self._inputs[key] = StepInputs(signature, *key[1:], Buffer.from_numpy)
            if self._replays:
                self._mirrors[key] = made.mirror(self._caller.upload)
        buffers = self._inputs[key].fill(batch)
        if buffers is None or not self._replays:
            return buffers
        return self._mirrors[key].follow()

    def _kept_suppress(self, suppress: Float32) -> "Buffer":
        """The masks; where steps are replayed, always in the one buffer that their graphs know."""
        if self._suppress is not None and self._suppress[0] is suppress:
            return self._suppress[1]
        signature, _ = self._caller.graphs["step"]
        spec = next(spec for spec in signature.inputs if spec.name == "suppress")
        buffer = self._caller.upload(spec, np.array(suppress) if self._replays else suppress)
        if self._replays and self._suppress is not None:
            self._suppress[1].inplace_copy_from(buffer)
            self._caller.synchronize()  # the copy is under way until then, and `buffer` goes now
            buffer = self._suppress[1]
        self._suppress = (suppress, buffer)
        return buffer

    def _device_graph(
        self, key: tuple[str, int, int], graph: "CompiledGraph", arguments: "list[Buffer]"
    ) -> DeviceGraph:
        """The device graph of these buffers; the one used last stands last."""
        kept = self.device_graphs.pop(key, None)
        if kept is None or not kept.fits(arguments):
            if kept is not None:
                kept.release()
            kept = DeviceGraph(graph, list(self._inputs).index(key), arguments)
        self.device_graphs[key] = kept
        while len(self.device_graphs) > 1 and self._rows_kept() > ROWS_KEPT:
            self.device_graphs.pop(next(iter(self.device_graphs))).release()
        return kept

    def _rows_kept(self) -> int:
        return sum(rows for _, rows, _ in self.device_graphs)
