"""Calls of compiled entry points: numpy in, numpy out, and the attention caches between them."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mwc.runtime import host_memory, scheduling
from mwc.runtime.artifact import TargetEntry
from mwc.runtime.checks import check_shapes
from mwc.runtime.devices import device_memory
from mwc.runtime.errors import DeviceError, MemoryShortage, first_line
from mwc.runtime.platform import free_memory
from mwc.runtime.slot_memory import Sizes
from mwc.runtime.spec import ITEM_BYTES, GraphSignature, TensorSpec

if TYPE_CHECKING:
    from max.driver import Buffer, Device
    from max.engine import Model as CompiledGraph

Array = npt.NDArray[Any]

WRITABLE = {"float32": np.float32, "int32": np.int32}
"""Input dtypes of the entry points and what carries them."""


@dataclass(frozen=True)
class _Cache:
    """An attention cache, and its memory uint8 [*shape, item] where that is the host's."""

    buffer: "Buffer"
    host: Array | None = None


class GraphCaller:
    """The entry points of one target, on one device.

    Attributes:
        graphs: by name, what each takes and gives, and its compiled graph.
        device: where they run.
        sizes: how many window slots ("windows") and row slots ("row_slots") the caches have.
    """

    def __init__(
        self,
        target: TargetEntry,
        device: "Device",
        graphs: "Mapping[str, tuple[GraphSignature, CompiledGraph]]",
        sizes: Sizes,
    ) -> None:
        self.graphs = graphs
        self.sizes = dict(sizes)
        self._target = target
        self.device = device
        self._caches: dict[tuple[str, tuple[int | str, ...]], _Cache] = {}

    def resize(self, sizes: Sizes) -> None:
        """Have so many slots; caches whose number changes are made anew, with nothing in them.

        Raises:
            MemoryShortage: the memory is not given; there are as many as before, those whose
                number should have changed with nothing in them.
        """
        before, self.sizes = self.sizes, dict(sizes)
        changed = {size for size, held in before.items() if held != sizes[size]}
        kept = {key: cache for key, cache in self._caches.items() if not changed & set(key[1])}
        self._caches = dict(kept)
        try:
            for signature, _ in self.graphs.values():
                for spec in signature.inputs:
                    if spec.mutable:
                        self.cache(spec)
        except MemoryShortage:
            self.sizes, self._caches = before, kept
            raise

    def held_bytes(self) -> int:
        """Bytes of the caches that have been made."""
        buffers = (cache.buffer for cache in self._caches.values())
        return sum(buffer.num_elements * buffer.element_size for buffer in buffers)

    def free_memory(self) -> int | None:
        """Bytes that the device has left; None if nobody knows."""
        if self._target.device == "cpu":
            return free_memory()
        return device_memory(self.device)

    def run(
        self, name: str, inputs: Mapping[str, Array], *, fetch: tuple[str, ...] | None = None
    ) -> dict[str, Array]:
        """Execute an entry point: inputs by name, caches added, outputs by name as numpy.

        `fetch` names the outputs to bring to the host; None for all.
        """
        signature, graph = self.graphs[name]
        check_shapes(signature, inputs)
        with self.reporting(name):
            buffers = {
                spec.name: self.upload(spec, inputs[spec.name])
                for spec in signature.inputs
                if not spec.mutable
            }
            results = scheduling.call(graph.execute, self.arguments(signature, buffers))
            return {
                spec.name: result.to_numpy()
                for spec, result in zip(signature.outputs, results, strict=True)
                if fetch is None or spec.name in fetch
            }

    def synchronize(self) -> None:
        """Wait until the device has done all it was told."""
        self.device.synchronize()

    def arguments(
        self, signature: GraphSignature, buffers: "Mapping[str, Buffer]"
    ) -> "list[Buffer]":
        """An entry point's inputs in order, caches among them."""
        return [
            self.cache(spec) if spec.mutable else buffers[spec.name] for spec in signature.inputs
        ]

    @contextmanager
    def reporting(self, name: str) -> Iterator[None]:
        """Have what MAX says while an entry point runs told in one sentence.

        A GPU works on behind its caller, so a failure may come out where results are fetched, or
        with the next call.

        Raises:
            DeviceError: MAX failed.
        """
        try:
            yield
        except (RuntimeError, ValueError) as error:
            elsewhere = "" if self._target.device == "cpu" else ", on the CPU if it fails again"
            raise DeviceError(
                f"{self._target.name} failed in {name}: {first_line(error)}; load the model "
                f"again{elsewhere}."
            ) from error

    def upload(self, spec: TensorSpec, value: Array) -> "Buffer":
        """An input on the device; on a CPU it shares the array's memory where it can."""
        from max.driver import Buffer

        array = np.ascontiguousarray(value, WRITABLE[spec.dtype])
        return Buffer.from_numpy(array).to(self.device)

    def cache(self, spec: TensorSpec) -> "Buffer":
        """The cache of that name, made at first use: zeros, so that no padding holds a NaN.

        Raises:
            MemoryShortage: the memory for it is not given.
        """
        from max.driver import Buffer

        key = (spec.name, spec.shape)
        if key not in self._caches:
            shape = [size if isinstance(size, int) else self.sizes[size] for size in spec.shape]
            dtype = _max_dtype(spec.dtype)
            if self._target.device == "cpu":
                size = ITEM_BYTES[spec.dtype]
                memory = host_memory.zeros(math.prod(shape) * size)
                buffer = Buffer.from_numpy(memory).view(dtype, shape)
                self._caches[key] = _Cache(buffer, memory.reshape(*shape, size))
            else:
                self._caches[key] = _Cache(self._zeros_there(shape, dtype))
        return self._caches[key].buffer

    def host_caches(self, name: str) -> dict[str, Array]:
        """The memory of an entry point's caches by name, uint8 [*shape, item]; none on a GPU."""
        found: dict[str, Array] = {}
        for spec in self.graphs[name][0].inputs:
            if spec.mutable:
                self.cache(spec)
                host = self._caches[spec.name, spec.shape].host
                if host is not None:
                    found[spec.name] = host
        return found

    def _zeros_there(self, shape: list[int], dtype: Any) -> "Buffer":
        from max.driver import Buffer

        try:
            zeros = Buffer.zeros(shape, dtype, self.device)
            self.device.synchronize()  # filled behind our back; a graph may write sooner
        except (RuntimeError, ValueError) as error:
            raise MemoryShortage(
                f"{self._target.name} does not give {math.prod(shape) * dtype.size_in_bytes >> 20} "
                f"MiB more memory ({first_line(error)}); lower batch_size, beam_size or best_of, "
                "or free memory."
            ) from error
        return zeros

    def cache_array(self, name: str) -> Array:
        """A cache on the host, as float32 or bytes."""
        signature, _ = self.graphs["encode"]
        spec = next(spec for spec in signature.inputs if spec.name == name)
        return _to_array(self.cache(spec), spec.dtype)


def _max_dtype(dtype: str) -> Any:
    from max.dtype import DType

    kinds: dict[str, Callable[[], Any]] = {
        "float32": lambda: DType.float32,
        "bfloat16": lambda: DType.bfloat16,
        "float16": lambda: DType.float16,
        "uint8": lambda: DType.uint8,
    }
    return kinds[dtype]()


def _to_array(buffer: "Buffer", dtype: str) -> Array:
    from max.driver import CPU
    from max.dtype import DType

    host = buffer.to(CPU())
    if dtype != "bfloat16":
        values: Array = host.to_numpy()
        return values if dtype == "uint8" else values.astype(np.float32)
    bits = host.view(DType.uint16, host.shape).to_numpy().astype(np.uint32) << 16
    widened: Array = bits.view(np.float32)
    return widened
