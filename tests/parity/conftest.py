"""The kernels, compiled once for all tests of them, and a model that is shared between files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernel_graphs import Kernels

    from mwc.compiler import ConvertResult


@pytest.fixture(scope="session")
def kernels() -> "Kernels":
    """Every CPU kernel in a graph of its own, as code for this CPU or for that of MWC_TEST_CPU."""
    from max import driver

    if "MWC_TEST_CPU" in os.environ:
        driver.set_virtual_cpu_target(os.environ["MWC_TEST_CPU"])
    from kernel_graphs import Kernels

    return Kernels()


@pytest.fixture(scope="session")
def float16_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of its matrices a float32 model stores most in float16, and queries in float32."""
    from families import IN_FLOAT16, family_checkpoint

    (name,) = IN_FLOAT16
    return family_checkpoint(name, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="session")
def float16_converted(
    take: Callable[[str], None],
    float16_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> "ConvertResult":
    """`float16_checkpoint`, converted."""
    from families import IN_FLOAT16

    from mwc.compiler import convert

    take(*IN_FLOAT16)
    return convert(float16_checkpoint, tmp_path_factory.mktemp("float16") / "artifact")
