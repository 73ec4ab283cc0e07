"""What every graph builder needs: the plan (model, device, dtypes) and weights by name.

A `Scope` is one graph under construction. Weights enter it by the names of the weight file; asking
twice for a name gives the same value, because MAX allows a name once per graph.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from max.dtype import DType
from max.graph import (
    BufferType,
    DeviceRef,
    Dim,
    Graph,
    TensorType,
    TensorValue,
    Value,
    Weight,
    ops,
)

from mwc.compiler.int8_parts import scale_name
from mwc.compiler.weight_rules import DRAFT
from mwc.runtime.spec import ModelSpec, TensorSpec, WhisperSpec

KERNELS = Path(__file__).resolve().parent.parent / "kernels"
"""The Mojo package of custom ops that the graphs call."""

DTYPES = {
    "float32": DType.float32,
    "bfloat16": DType.bfloat16,
    "float16": DType.float16,
    "int32": DType.int32,
    "int8": DType.int8,
    "uint8": DType.uint8,
}


@dataclass(frozen=True)
class Matrix:
    """The weights of a linear layer.

    Attributes:
        values: [out, in] as in the checkpoint; or int8, packed as `quantize.pack_int8` does, the
            token embedding as `quantize.pack_halves`.
        scale: float32 [out] where the values are int8, else None.
        group_scale: uint8, packed as `quantize.pack_groups` does, of groups of terms of an output.
        column_scale: float32 [in] of a token embedding: what each input is multiplied by.
        rest: int8, packed as `quantize.pack_int8` does, where the values have rests.
    """

    values: TensorValue
    scale: TensorValue | None = None
    group_scale: TensorValue | None = None
    column_scale: TensorValue | None = None
    rest: TensorValue | None = None

    def parts(self) -> list[TensorValue]:
        """The matrix as its kernel takes it."""
        given = (self.values, self.scale, self.group_scale, self.column_scale, self.rest)
        return [part for part in given if part is not None]

    @property
    def n_out(self) -> Dim:
        """How many outputs the layer has."""
        return (self.values if self.scale is None else self.scale).shape[0]


BESIDE_INT8 = ("scale", "group_scale", "column_scale", "rest")
"""What may be stored beside the values of an int8 matrix, as `Matrix` takes it."""

Linear = tuple[Matrix, TensorValue]
"""A linear layer: its matrix and its bias [out]."""

Norm = tuple[TensorValue, TensorValue]
"""A layer norm: its weight and its bias."""


class LayerWeights:
    """Weights by name, and the scales of those that are int8 matrices."""

    def __init__(self, names: Sequence[str], values: Sequence[TensorValue]) -> None:
        self._values = dict(zip(names, values, strict=True))

    def matrix(self, name: str) -> Matrix:
        """The matrix of a layer, for example "fc1"."""
        beside = {kind: self._values.get(f"{name}.{kind}") for kind in BESIDE_INT8}
        return Matrix(self._values[f"{name}.weight"], **beside)

    def linear(self, name: str) -> Linear:
        """A linear layer."""
        return self.matrix(name), self._values[f"{name}.bias"]

    def of_layer(self, i: int) -> "LayerWeights":
        """Those of one layer, of weights that are stacked."""
        return LayerWeights(tuple(self._values), [values[i] for values in self._values.values()])

    def norm(self, name: str) -> Norm:
        """A layer norm's weight and bias."""
        return self._values[f"{name}.weight"], self._values[f"{name}.bias"]


@dataclass(frozen=True)
class Plan:
    """What to build: a model for a device, in given dtypes.

    Attributes:
        spec: the model.
        device: where the graphs run.
        weights: name to TensorSpec of every tensor in the weight file.
        activations: dtype between layers: float32 on CPU, the weights' dtype on GPU.
        cache: dtype of the attention caches; with int8 of self-attention's, the others are bytes.
        kernels: the Mojo package of custom ops, precompiled or as source.
        tensor_cores: whether products of these activations run on the GPU's tensor cores.
        flash_attention: whether it has flash attention of them there.
    """

    spec: WhisperSpec
    device: DeviceRef
    weights: dict[str, TensorSpec]
    activations: str
    cache: str
    kernels: Path = KERNELS
    tensor_cores: bool = False
    flash_attention: bool = False

    @property
    def model(self) -> ModelSpec:
        """The model's dimensions."""
        return self.spec.model

    @property
    def on_gpu(self) -> bool:
        """Whether the graphs run on a GPU."""
        return bool(self.device.is_gpu())

    @property
    def int8(self) -> bool:
        """Whether matrices are int8: then activations and attention are of whole numbers too."""
        return any(
            weight.dtype == "int8" and not name.startswith(DRAFT)
            for name, weight in self.weights.items()
        )

    @property
    def drafts(self) -> bool:
        """Whether tokens are drafted with int8 copies of the weights."""
        return not self.on_gpu and any(name.startswith(DRAFT) for name in self.weights)

    def for_drafts(self) -> "Plan":
        """The same with the int8 copies in place of the weights that have one."""
        copies = {
            name.removeprefix(DRAFT): weight
            for name, weight in self.weights.items()
            if name.startswith(DRAFT)
        }
        return replace(self, weights={**self.weights, **copies})

    def with_scales(self, prefix: str, names: Sequence[str]) -> tuple[str, ...]:
        """`names`, and what there is beside those that are int8 matrices."""
        beside = [scale_name(name, kind) for name in names for kind in BESIDE_INT8]
        return (*names, *(each for each in beside if f"{prefix}.{each}" in self.weights))


class Scope:
    """One graph under construction, inside its `with Graph(...)` block."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph = graph
        self.plan = plan
        self._weights: dict[str, TensorValue] = {}

    def weight(self, name: str) -> TensorValue:
        """The weight of that name, with the dtype and shape it has in the weight file.

        It is expected on the plan's device. Taken from the host, every graph of an artifact would
        make a copy of its own on the GPU.
        """
        if name not in self._weights:
            spec = self.plan.weights[name]
            shape = [int(size) for size in spec.shape]
            self._weights[name] = self.graph.add_weight(
                Weight(name, DTYPES[spec.dtype], shape, self.plan.device),
                force_initial_weight_on_host=False,
            )
        return self._weights[name]

    def for_drafts(self) -> "Scope":
        """The same graph under construction, whose weights are the int8 copies."""
        return _DraftScope(self)

    def used(self) -> tuple[str, ...]:
        """Names of the weights this graph reads, sorted."""
        return tuple(sorted(self._weights))

    def layer_weights(self, prefix: str, names: Sequence[str]) -> list[TensorValue]:
        """The weights `prefix.name` for each of `names`."""
        return [self.weight(f"{prefix}.{name}") for name in names]

    def weights(self, prefix: str, names: Sequence[str]) -> LayerWeights:
        """The weights `prefix.name` for each of `names`, and their scales."""
        names = self.plan.with_scales(prefix, names)
        return LayerWeights(names, self.layer_weights(prefix, names))

    def matrix(self, name: str) -> Matrix:
        """The matrix of one layer, for example "decoder.embed_tokens"."""
        prefix, _, last = name.rpartition(".")
        return self.weights(prefix, (f"{last}.weight",)).matrix(last)

    def linear(self, name: str) -> Linear:
        """One linear layer."""
        prefix, _, last = name.rpartition(".")
        return self.weights(prefix, (f"{last}.weight", f"{last}.bias")).linear(last)

    def weight_types(self, prefix: str, names: Sequence[str]) -> list[TensorType]:
        """The types of the weights `prefix.name` for each of `names`."""
        specs = [self.plan.weights[f"{prefix}.{name}"] for name in names]
        return [tensor_type(spec, self.plan.device) for spec in specs]

    @contextmanager
    def subgraph(
        self, name: str, inputs: Sequence[TensorType | BufferType]
    ) -> Iterator[tuple[Graph, list[Value]]]:
        """A subgraph under construction, to be called any number of times, and its inputs."""
        with self.graph.add_subgraph(
            f"{self.graph.name}_{name}",
            input_types=inputs,
            custom_extensions=[self.plan.kernels],
            devices=[self.plan.device],
        ) as graph:
            yield graph, list(graph.inputs[: len(inputs)])

    def constant(self, value: npt.NDArray[np.generic] | float | int, dtype: DType) -> TensorValue:
        """A constant on the plan's device."""
        return ops.constant(value, dtype, self.plan.device)

    def constant_ids(self, ids: Sequence[int]) -> TensorValue:
        """int32 [len(ids)] on the plan's device: token ids, a layer's index, heads."""
        return self.constant(np.asarray(ids, np.int32), DType.int32)


class _DraftScope(Scope):
    """A scope that gives the int8 copies of weights by the names of these."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope.graph, scope.plan.for_drafts())
        self._scope = scope

    def weight(self, name: str) -> TensorValue:
        copy = DRAFT + name
        return self._scope.weight(copy if copy in self._scope.plan.weights else name)


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


def custom(
    name: str, plan: Plan, inputs: list[TensorValue], output: TensorType, **parameters: int
) -> TensorValue:
    """One of mwc's kernels with one output."""
    return ops.custom(name, plan.device, inputs, [output], parameters=parameters)[0].tensor
