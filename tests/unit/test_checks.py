"""What is refused before a kernel would read or write outside memory."""

import numpy as np
import pytest

from mwc.runtime.checks import check_counts, check_distinct, check_range, check_shapes
from mwc.runtime.spec import GraphSignature, TensorSpec

STEP = GraphSignature(
    "step",
    inputs=(
        TensorSpec("tokens", "int32", ("tokens",)),
        TensorSpec("rows", "int32", ("tokens",)),
        TensorSpec("suppress", "float32", (2, 10)),
        TensorSpec("states", "int32", ("tokens", 6)),
        TensorSpec("cache", "float32", ("slots", 4), mutable=True),
    ),
    outputs=(),
    weights=(),
)


def arrays(**changed: tuple[int, ...]) -> dict[str, np.ndarray]:
    shapes = {"tokens": (3,), "rows": (3,), "suppress": (2, 10), "states": (3, 6), **changed}
    return {name: np.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("values", [[0], [9], [0, 9, 5], []])
def test_what_is_there_is_accepted(values: list[int]) -> None:
    check_range("row", np.array(values, np.int32), 10)


@pytest.mark.parametrize("values", [[-1], [10], [3, 10], [-1, 3]])
def test_what_is_not_there_is_refused(values: list[int]) -> None:
    with pytest.raises(IndexError, match=r"row \[.*\] is outside the 10 there are"):
        check_range("row", np.array(values, np.int32), 10)


def test_two_rows_in_one_slot_are_refused() -> None:
    check_distinct(np.array([2, 0, 1]))
    check_distinct(np.array([]))
    with pytest.raises(ValueError, match=r"distinct slots, not \[2, 0, 2\]"):
        check_distinct(np.array([2, 0, 2]))


def test_counts_that_are_not_all_frames_are_refused() -> None:
    check_counts(np.array([3]), 3)
    check_counts(np.array([1, 2]), 3)
    for counts in ([], [2], [4], [0, 3], [5, -2]):
        with pytest.raises(ValueError, match=r"counts \[.*\] do not share out 3 frames"):
            check_counts(np.array(counts, np.int32), 3)


def test_shapes_of_the_signature_are_accepted() -> None:
    check_shapes(STEP, arrays())
    check_shapes(STEP, arrays(tokens=(0,), rows=(0,), states=(0, 6)))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("suppress", (2, 11)),
        ("suppress", (10,)),
        ("states", (3, 5)),
        ("states", (2, 6)),
        ("rows", (4,)),
        ("rows", (3, 1)),
        ("tokens", ()),
    ],
)
def test_other_shapes_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"step: {name} has shape"):
        check_shapes(STEP, arrays(**{name: shape}))
