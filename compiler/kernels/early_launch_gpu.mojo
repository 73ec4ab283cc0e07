"""Launching a kernel while the one before it still runs, where the GPU can (Hopper and later).

Every kernel of a decoder's step says at its start that the next may come (launch_dependent_grids),
reads what no kernel before it writes, which are weights, and only then waits for them to end and
for what they wrote (wait_on_dependent_grids). A kernel that is launched so has to wait, always: the
next one relies on it for all that came before.
"""

from max.gpu.host.launch_attribute import LaunchAttribute
from max.gpu.primitives.grid_controls import PDLLevel, pdl_launch_attributes


@always_inline
def early_launch() -> List[LaunchAttribute]:
    """The launch attributes; none where the GPU cannot."""
    return pdl_launch_attributes(PDLLevel.ON)
