"""The kernels, compiled once for all tests of them."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernel_graphs import Kernels


@pytest.fixture(scope="session")
def kernels() -> "Kernels":
    """Every CPU kernel in a graph of its own."""
    from kernel_graphs import Kernels

    return Kernels()
