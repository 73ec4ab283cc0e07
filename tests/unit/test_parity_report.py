"""Measuring one stage, and the report's lines."""

import math

import numpy as np
import pytest

from mwc.compiler.parity import (
    BOUNDS,
    Difference,
    ParityReport,
    bounds_of,
    compare,
    worst_of,
)
from mwc.runtime.errors import OptionError


def test_the_relative_error_is_over_the_references_largest_value():
    error = compare("conv", np.array([1.0, -7.5]), np.array([1.0, -8.0]), bound=0.1)
    assert error.max_abs == 0.5
    assert error.max_rel == 0.0625
    assert error.ok
    assert not compare("conv", np.array([1.0, -7.5]), np.array([1.0, -8.0]), bound=0.0624).ok


def test_a_given_scale_replaces_it():
    error = compare("logprobs", np.array([0.5]), np.array([0.0]), bound=0.1, scale=10.0)
    assert error.max_rel == 0.05


def test_zeros_match_zeros_only():
    zeros = np.zeros(3)
    assert compare("x", zeros, zeros, bound=1e-4).max_rel == 0.0
    assert compare("x", zeros + 1e-9, zeros, bound=1e-4).max_rel == math.inf
    assert compare("x", np.zeros(0), np.zeros(0), bound=1e-4).ok


def test_root_mean_squares_instead():
    ours, theirs = np.array([3.0, 4.0, 0.0, 1.0]), np.array([3.0, 4.0, 0.0, 0.0])
    error = compare("x", ours, theirs, bound=0.2, rms=True)
    assert error.max_abs == 1.0
    assert error.max_rel == pytest.approx(0.2)  # sqrt(1 / 4) over sqrt(25 / 4)
    assert compare("x", theirs, theirs, bound=0.2, rms=True).max_rel == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_fails(bad):
    assert not compare("x", np.array([1.0, bad]), np.array([1.0, 1.0]), bound=1e-4).ok


def test_another_shape_fails():
    error = compare("x", np.zeros((2, 3)), np.zeros((3, 2)), bound=1e-4)
    assert error.max_abs == error.max_rel == math.inf
    assert not error.ok


def test_worst_of_takes_the_largest_and_renames_it():
    small = compare("k", np.array([1.01]), np.array([1.0]), bound=0.1)
    large = compare("v", np.array([1.05]), np.array([1.0]), bound=0.1)
    broken = compare("w", np.array([math.nan]), np.array([1.0]), bound=0.1)
    assert worst_of("kv", [small, large]).max_rel == pytest.approx(0.05)
    assert worst_of("kv", [small, large]).name == "kv"
    assert math.isnan(worst_of("kv", [broken, large]).max_rel)


def test_f32_is_held_to_the_stated_bounds():
    f32 = bounds_of("f32")
    assert {f32.features, f32.layers, f32.encoder, f32.logits} == {1e-4}
    assert f32.margin == 1e-3
    assert all(bounds.features == 1e-4 for bounds in BOUNDS.values())
    with pytest.raises(OptionError, match="int4"):
        bounds_of("int4")


def test_the_summary_names_everything_that_failed_and_every_difference():
    stages = (
        compare("conv", np.array([1.0]), np.array([1.0]), bound=1e-4),
        compare("encoder", np.array([1.1]), np.array([1.0]), bound=1e-4),
        compare("step logits", np.array([1.01]), np.array([1.0]), bound=1e-4),
    )
    differences = (
        Difference(False, 7, ours=11, theirs=12, margin=4e-4, ok=True),
        Difference(True, 9, ours=13, theirs=14, margin=math.inf, ok=False),
    )
    report = ParityReport("numpy", "f32", 1e-4, stages, 50, 48, differences, ok=False)
    lines = report.summary()
    assert lines[0] == "f32 DOES NOT MATCH numpy"
    assert lines[1].startswith("3 stages, the worst: encoder, relative error 1.0e-01")
    assert lines[2] == "48 of 50 greedy tokens equal"
    assert lines[3].startswith("beyond its bound: step logits")
    assert "token 7 without timestamps: 11, the reference says 12" in lines[4]
    assert lines[4].endswith("a near tie")
    assert lines[5].endswith("margin inf, not a near tie")
    assert len(lines) == 6
    assert report.to_json()["differences"][1]["margin"] is None


def test_the_summary_of_a_match_is_three_lines():
    stages = (compare("conv", np.array([1.0]), np.array([1.0]), bound=1e-4),)
    lines = ParityReport("numpy", "f32", 1e-4, stages, 50, 50, (), ok=True).summary()
    assert lines[0] == "f32 matches numpy"
    assert len(lines) == 3
