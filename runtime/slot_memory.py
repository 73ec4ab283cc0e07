"""The memory that slots take, told before any of it is taken."""

import math
from collections.abc import Iterable, Mapping

from mwc.runtime.errors import MemoryShortage
from mwc.runtime.spec import ITEM_BYTES, GraphSignature, ModelSpec, TensorSpec

WORKED_IN = 10
"""Float32 values that encoding takes at its peak for each position and axis of a window: queries,
keys, values and the layer's input and output, or the MLP's inside. Measured in int8 on a CPU: 6.5.
"""

Sizes = Mapping[str, int]
"""How many window slots ("windows") and row slots ("row_slots") there are."""


def cache_bytes(signatures: Iterable[GraphSignature], sizes: Sizes) -> int:
    """Bytes of all attention caches with so many slots."""
    caches = {spec.name: spec for graph in signatures for spec in graph.inputs if spec.mutable}
    return sum(_bytes(spec, sizes) for spec in caches.values())


def work_bytes(model: ModelSpec, n_encoded: int) -> int:
    """Bytes that encoding so many windows in one call takes beside the caches, at most."""
    return n_encoded * model.n_audio_ctx * model.n_audio_state * WORKED_IN * 4


def check_memory(needed: int, free: int | None, wanted: Sizes, place: str) -> None:
    """Refuse slots that do not fit.

    Args:
        needed: bytes more than are in use.
        free: bytes there are; None if nobody knows.
        wanted: how many slots there would be.
        place: where they would be, for the message.

    Raises:
        MemoryShortage: they do not fit.
    """
    if free is None or needed <= free:
        return
    windows, rows = wanted["windows"], wanted["row_slots"]
    fit = windows * free // needed
    if fit:
        remedy = (
            f"lower batch_size, beam_size or best_of (about {fit} of the windows fit), or free "
            "memory"
        )
    else:
        remedy = "free memory: not even one window fits"
    raise MemoryShortage(
        f"{_counted(windows, 'window')} and {_counted(rows, 'row')} at once need {_gib(needed)} "
        f"GiB more memory on {place}, where {_gib(free)} GiB is free; {remedy}."
    )


def _counted(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _bytes(spec: TensorSpec, sizes: Sizes) -> int:
    shape = [size if isinstance(size, int) else sizes[size] for size in spec.shape]
    return math.prod(shape) * ITEM_BYTES[spec.dtype]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
