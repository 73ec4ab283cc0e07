"""Small graphs of one kernel each, compiled together and ready to run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import BufferType, DeviceRef, Graph, Module, TensorType

from mwc.compiler.graphs.entry_points import load_kernels
from mwc.compiler.graphs.scope import KERNELS, Plan
from mwc.compiler.quantize import GROUP_TERMS, pack_groups, pack_int8
from mwc.compiler.weights import CACHES, weight_specs
from mwc.runtime.spec import WhisperSpec


@dataclass(frozen=True)
class Case:
    """One kernel with its inputs ready.

    Attributes:
        name: what it is.
        run: execute it once.
        operations: two per multiply-add.
        read: bytes of weights or caches it has to read.
        kind: the arithmetic that bounds it.
    """

    name: str
    run: Callable[[], object]
    operations: float
    read: float
    kind: str


class Cases:
    """Kernels of one precision for one model; `compile` makes them runnable.

    `in_float16`: whether matrices are stored so; float32 else, whatever the precision, but int8.
    `kernels`: the folder of the kernels' source. `only`: leave out what has none of these in its
    name.
    """

    def __init__(
        self,
        spec: WhisperSpec,
        precision: str,
        *,
        in_float16: bool = False,
        kernels: Path = KERNELS,
        only: Sequence[str] = (),
    ) -> None:
        self._only = only
        self.model = spec.model
        self.precision = precision
        self._dtype = np.float16 if in_float16 else np.float32
        self._module = Module()
        self._library, path = load_kernels(kernels)
        self.tokens = spec.tokens
        self._path = path
        weights = weight_specs(spec, precision)
        self.plan = Plan(spec, DeviceRef.CPU(), weights, "float32", CACHES[precision], kernels=path)
        self._todo: list[tuple[str, list[Any], float, float, str]] = []
        self.rng = np.random.default_rng(0)

    def values(self, *shape: int) -> Any:
        """Random float32."""
        return self.rng.standard_normal(shape, np.float32)

    def matrix(self, n: int, k: int, terms: int = GROUP_TERMS) -> list[Any]:
        """A random matrix as the precision stores it; of int8, its values and their scales.

        `terms`: those of a row that share a scale.
        """
        if self.precision != "int8":
            return [self.values(n, k).astype(self._dtype)]
        values = self.rng.integers(-127, 128, (n, k), dtype=np.int8)
        group_scale = np.full((n, -(-k // terms)), 128, np.uint8)
        return [pack_int8(values), np.full(n, 1e-5, np.float32), pack_groups(group_scale)]

    def add(
        self, name: str, build: Any, inputs: list[Any], operations: float, read: float, kind: str
    ) -> None:
        """Add one kernel: `build(plan, *inputs)`; the rest as in `Case`."""
        if self._only and not any(part in name for part in self._only):
            return
        cpu = DeviceRef.CPU()
        types = [
            BufferType(value.dtype, list(value.shape), cpu)
            if isinstance(value, Buffer)
            else TensorType(DType.from_numpy(value.dtype), list(value.shape), cpu)
            for value in inputs
        ]
        with Graph(
            name, input_types=types, kernel_library=self._library, module=self._module
        ) as graph:
            values = [
                value.buffer if isinstance(kind_, BufferType) else value.tensor
                for value, kind_ in zip(graph.inputs, types, strict=True)
            ]
            graph.output(build(self.plan, *values))
        arguments = [v if isinstance(v, Buffer) else Buffer.from_numpy(v) for v in inputs]
        self._todo.append((name, arguments, operations, read, kind))

    def compile(self) -> list[Case]:
        """Compile everything added."""
        session = InferenceSession(devices=[CPU()])
        compiled = session.compile(self._module, custom_extensions=[self._path])
        graphs = session.init_all(compiled, weights_registry={})
        cases = []
        for name, arguments, operations, read, kind in self._todo:
            graph = graphs[name]
            run = lambda graph=graph, arguments=arguments: graph.execute(*arguments)  # noqa: E731
            cases.append(Case(name, run, operations, read, kind))
        return cases
