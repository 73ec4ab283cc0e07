"""The inputs of steps that are kept from call to call."""

from typing import Any

import numpy as np
import pytest

from mwc.runtime.decoder import StepBatch
from mwc.runtime.spec import GraphSignature, TensorSpec
from mwc.runtime.step_inputs import StepInputs, wanted_of

PER_ROW = ("tokens", "rows", "positions", "windows")


def batch(n: int = 2, **more: Any) -> StepBatch:
    """A step of n rows."""
    numbers = np.arange(n, dtype=np.int32)
    return StepBatch(numbers, numbers, numbers, numbers, np.zeros((n, 6), np.int32), **more)


def signature(*more: TensorSpec) -> GraphSignature:
    """A step's inputs without its caches."""
    ints = tuple(TensorSpec(name, "int32", ("tokens",)) for name in PER_ROW)
    floats = tuple(TensorSpec(n, "float32", ("tokens",)) for n in ("temperatures", "uniforms"))
    states = TensorSpec("rule_states", "int32", ("tokens", 6))
    return GraphSignature("step", (*ints, states, *floats, *more), (), ())


WANTED = TensorSpec("wanted", "int32", ("tokens",))


def test_graphs_get_what_they_ask_for() -> None:
    kept = StepInputs(signature(WANTED), 2, 5, lambda array: array)
    filled = kept.fill(batch())
    assert filled is not None
    assert filled["wanted"].tolist() == [5, 5]
    assert kept.fill(batch(wanted=np.array([1, 0], np.int32))) is filled
    assert filled["wanted"].tolist() == [1, 0]
    without = StepInputs(signature(), 2, 5, lambda array: array).fill(batch())
    assert without is not None
    assert "wanted" not in without


class Copied:
    """A device's buffer of a few numbers, which counts what is copied into it."""

    def __init__(self, array: Any, fails: bool = False) -> None:
        self.values = array.tolist()
        self.copies = 0
        self.fails = fails

    def inplace_copy_from(self, array: Any) -> None:
        if self.fails:
            raise RuntimeError("lost")
        self.values = array.tolist()
        self.copies += 1


def test_a_device_gets_what_is_new() -> None:
    kept = StepInputs(signature(WANTED), 2, 5, lambda array: array)
    mirror = kept.mirror(lambda spec, array: Copied(array))
    assert {buffer.copies for buffer in mirror.follow().values()} == {0}
    kept.fill(batch())
    there = mirror.follow()
    copied = {*PER_ROW, "wanted"}
    assert {name for name, buffer in there.items() if buffer.copies == 1} == copied
    assert there["wanted"].values == [5, 5]
    kept.fill(batch())
    assert mirror.follow() is there
    assert sum(buffer.copies for buffer in there.values()) == len(copied)
    kept.fill(batch(uniforms=np.array([0.5, 0.0], np.float32)))
    mirror.follow()
    assert there["uniforms"].values == [0.5, 0.0]
    assert sum(buffer.copies for buffer in there.values()) == len(copied) + 1


def test_what_could_not_be_copied_is_copied_the_next_time() -> None:
    kept = StepInputs(signature(WANTED), 2, 5, lambda array: array)
    mirror = kept.mirror(lambda spec, array: Copied(array, fails=spec.name == "rows"))
    kept.fill(batch())
    with pytest.raises(RuntimeError, match="lost"):
        mirror.follow()
    kept.fill(batch())
    with pytest.raises(RuntimeError, match="lost"):
        mirror.follow()


def test_a_wrong_shape_is_told() -> None:
    kept = StepInputs(signature(WANTED), 2, 1, lambda array: array)
    assert kept.fill(batch(3)) is None
    assert kept.fill(batch(wanted=np.zeros(3, np.int32))) is None


@pytest.mark.parametrize("n_candidates", [1, 6])
def test_samples_need_every_logit(n_candidates: int) -> None:
    assert wanted_of(batch(), n_candidates).tolist() == [n_candidates] * 2
    warm = batch(temperatures=np.array([0.2, 0.0], np.float32))
    assert wanted_of(warm, n_candidates).tolist() == [0, 0]
