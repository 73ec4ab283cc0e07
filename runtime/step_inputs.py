"""The inputs of `step` and `steps`, kept from call to call: only their values are new.

A step takes about a millisecond, so making nine small buffers for it anew is felt. On a CPU a
buffer shares its memory with the numpy array it was made of: writing to the array is enough. A GPU
gets copies of these buffers into its own, of those that are new: from call to call of a batch that
stays together half of them are not.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mwc.runtime.decoder import StepBatch
from mwc.runtime.spec import GraphSignature, TensorSpec

Array = npt.NDArray[Any]


def wanted_of(batch: StepBatch, n_candidates: int) -> Array:
    """How many candidates of each row have to be exact; see `StepBatch.wanted`."""
    if batch.wanted is not None:
        return batch.wanted
    rows = len(batch.tokens)
    return np.full(rows, n_candidates if batch.temperatures is None else 0, np.int32)


class StepInputs:
    """The host's buffers of steps with as many rows and candidates; all but `suppress`."""

    def __init__(
        self,
        signature: GraphSignature,
        n_rows: int,
        n_candidates: int,
        share: Callable[[Array], Any],
    ) -> None:
        """Make them; `share` makes a device's buffer of an array's own memory."""
        sizes = {"tokens": n_rows, "candidates": n_candidates}
        dtypes = {"float32": np.float32, "int32": np.int32}
        self._specs = {
            spec.name: spec
            for spec in signature.inputs
            if not spec.mutable and spec.name != "suppress"
        }
        self._n_candidates = n_candidates
        self._arrays: dict[str, Array] = {
            name: np.zeros(
                [size if isinstance(size, int) else sizes[size] for size in spec.shape],
                dtypes[spec.dtype],
            )
            for name, spec in self._specs.items()
        }
        if "ranks" in self._arrays:
            self._arrays["ranks"][:] = np.arange(n_candidates)
        self._buffers = {name: share(array) for name, array in self._arrays.items()}

    def mirror(self, upload: Callable[[TensorSpec, Array], Any]) -> "Mirror":
        """Copies on a device; `upload` makes a buffer of it of an array."""
        there = {name: upload(self._specs[name], array) for name, array in self._arrays.items()}
        return Mirror(self._arrays, self._buffers, there)

    def fill(self, batch: StepBatch) -> dict[str, Any] | None:
        """Take the values of a step; the buffers by name, or None where a shape is wrong."""
        given: tuple[tuple[str, Array | float], ...] = (
            ("tokens", batch.tokens),
            ("rows", batch.rows),
            ("positions", batch.positions),
            ("windows", batch.windows),
            ("rule_states", batch.rule_states),
            ("temperatures", 0.0 if batch.temperatures is None else batch.temperatures),
            ("uniforms", 0.0 if batch.uniforms is None else batch.uniforms),
            ("wanted", wanted_of(batch, self._n_candidates)),
        )
        for name, value in given:
            if name not in self._arrays:
                continue
            array = self._arrays[name]
            if isinstance(value, np.ndarray) and value.shape != array.shape:
                return None
            array[...] = value
        return self._buffers


class Mirror:
    """What buffers on a device hold of a step's inputs, and how they get the rest."""

    def __init__(
        self, arrays: dict[str, Array], here: dict[str, Any], there: dict[str, Any]
    ) -> None:
        """Of the host's arrays and their buffers, and of the device's, which hold the same now."""
        self._arrays = arrays
        self._here = here
        self._there = there
        self._held = {name: array.tobytes() for name, array in arrays.items()}

    def follow(self) -> dict[str, Any]:
        """Copy what has changed; the device's buffers by name.

        Copies may go on until results are fetched: the host's arrays have to stay till then.
        """
        for name, array in self._arrays.items():
            values = array.tobytes()
            if values != self._held[name]:
                self._there[name].inplace_copy_from(self._here[name])
                self._held[name] = values
        return self._there
