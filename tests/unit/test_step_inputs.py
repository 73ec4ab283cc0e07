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


def test_a_wrong_shape_is_told() -> None:
    kept = StepInputs(signature(WANTED), 2, 1, lambda array: array)
    assert kept.fill(batch(3)) is None
    assert kept.fill(batch(wanted=np.zeros(3, np.int32))) is None


@pytest.mark.parametrize("n_candidates", [1, 6])
def test_samples_need_every_logit(n_candidates: int) -> None:
    assert wanted_of(batch(), n_candidates).tolist() == [n_candidates] * 2
    warm = batch(temperatures=np.array([0.2, 0.0], np.float32))
    assert wanted_of(warm, n_candidates).tolist() == [0, 0]
