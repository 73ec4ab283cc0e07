"""What is checked of an entry point's inputs before it runs: the kernels themselves check nothing.

A slot, position or token outside what there is, or an array shorter than its neighbours, would be
read or written outside memory.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mwc.runtime.spec import GraphSignature

Array = npt.NDArray[Any]


def check_range(what: str, values: Array, count: int) -> None:
    """Every value is in [0, count), else IndexError."""
    numbers = values.tolist()  # there are few: quicker than numpy's minimum and maximum
    if numbers and not 0 <= min(numbers) <= max(numbers) < count:
        raise IndexError(f"{what} {numbers} is outside the {count} there are")


def check_distinct(rows: Array) -> None:
    """No two rows of a call share a slot, else ValueError: they would write to one cache."""
    if len(set(rows.tolist())) < len(rows):
        raise ValueError(f"rows of one call need distinct slots, not {rows.tolist()}")


def check_counts(counts: Array, total: int) -> None:
    """Sequences of 1 or more share out `total` frames, else ValueError."""
    numbers = counts.tolist()
    if min(numbers, default=0) < 1 or sum(numbers) != total:
        raise ValueError(f"counts {numbers} do not share out {total} frames")


def check_shapes(signature: GraphSignature, inputs: Mapping[str, Array]) -> None:
    """Every input has the sizes of its signature, and equal ones where they share a name.

    MAX checks fixed sizes only. Raises ValueError.
    """
    sizes: dict[str, int] = {}
    for spec in signature.inputs:
        if spec.mutable:
            continue
        shape = np.shape(inputs[spec.name])
        if len(shape) != len(spec.shape) or any(
            n != (size if isinstance(size, int) else sizes.setdefault(size, n))
            for n, size in zip(shape, spec.shape, strict=True)
        ):
            known = "".join(f", {name} {n}" for name, n in sizes.items())
            raise ValueError(
                f"{signature.name}: {spec.name} has shape {shape}, not {spec.shape}{known}"
            )
