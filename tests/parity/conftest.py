"""The kernels, compiled once for all tests of them."""

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernel_graphs import Kernels


@pytest.fixture(scope="session")
def kernels() -> "Kernels":
    """Every CPU kernel in a graph of its own, as code for this CPU or for that of MWC_TEST_CPU."""
    from max import driver

    if "MWC_TEST_CPU" in os.environ:
        driver.set_virtual_cpu_target(os.environ["MWC_TEST_CPU"])
    from kernel_graphs import Kernels

    return Kernels()
