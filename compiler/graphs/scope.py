"""What every graph builder needs: the plan (model, device, dtypes) and weights by name.

A `Scope` is one graph under construction. Weights enter it by the names of the weight file; asking
twice for a name gives the same value, because MAX allows a name once per graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from max.dtype import DType
from max.graph import BufferType, DeviceRef, Graph, TensorType, TensorValue, Value, Weight, ops

from mwc.runtime.spec import ModelSpec, TensorSpec, WhisperSpec

KERNELS = Path(__file__).resolve().parent.parent / "kernels"
"""The Mojo package of custom ops that the graphs call."""

DTYPES = {
    "float32": DType.float32,
    "bfloat16": DType.bfloat16,
    "float16": DType.float16,
    "int32": DType.int32,
}


@dataclass(frozen=True)
class Plan:
    """What to build: a model for a device, in given dtypes.

    Attributes:
        spec: the model.
        device: where the graphs run.
        weights: name to TensorSpec of every tensor in the weight file.
        activations: dtype between layers: float32 on CPU, the weights' dtype on GPU.
        cache: dtype of the attention caches.
        kernels: the Mojo package of custom ops, precompiled or as source.
    """

    spec: WhisperSpec
    device: DeviceRef
    weights: dict[str, TensorSpec]
    activations: str
    cache: str
    kernels: Path = KERNELS

    @property
    def model(self) -> ModelSpec:
        """The model's dimensions."""
        return self.spec.model

    @property
    def on_gpu(self) -> bool:
        """Whether the graphs run on a GPU."""
        return bool(self.device.is_gpu())


class Scope:
    """One graph under construction, inside its `with Graph(...)` block."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph = graph
        self.plan = plan
        self._weights: dict[str, TensorValue] = {}

    def weight(self, name: str) -> TensorValue:
        """The weight of that name, with the dtype and shape it has in the weight file."""
        if name not in self._weights:
            spec = self.plan.weights[name]
            shape = [int(size) for size in spec.shape]
            self._weights[name] = self.graph.add_weight(
                Weight(name, DTYPES[spec.dtype], shape, self.plan.device)
            )
        return self._weights[name]

    def used(self) -> tuple[str, ...]:
        """Names of the weights this graph reads, sorted."""
        return tuple(sorted(self._weights))

    def layer_weights(self, prefix: str, names: Sequence[str]) -> list[TensorValue]:
        """The weights `prefix.name` for each of `names`."""
        return [self.weight(f"{prefix}.{name}") for name in names]

    def constant(self, value: npt.NDArray[np.generic] | float | int, dtype: DType) -> TensorValue:
        """A constant on the plan's device."""
        return ops.constant(value, dtype, self.plan.device)

    def constant_ids(self, ids: Sequence[int]) -> TensorValue:
        """int32 [len(ids)] on the plan's device: token ids, a layer's index, heads."""
        return self.constant(np.asarray(ids, np.int32), DType.int32)


def tensor_type(spec: TensorSpec, device: DeviceRef) -> TensorType:
    """The MAX type of an immutable input, output or weight."""
    return TensorType(DTYPES[spec.dtype], list(spec.shape), device)


def input_type(spec: TensorSpec, device: DeviceRef) -> TensorType | BufferType:
    """The MAX type of a graph input: a buffer where the graph writes into it."""
    if spec.mutable:
        return BufferType(DTYPES[spec.dtype], list(spec.shape), device)
    return tensor_type(spec, device)


def outputs_of(values: Sequence[Value]) -> list[TensorValue]:
    """The tensors an op or subgraph returned."""
    return [value.tensor for value in values]
