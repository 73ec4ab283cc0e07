"""Which GPU is compiled for, where kernels differ.

Its name has the vendor's before it where the compiler has no GPU, "nvidia:sm_90a", and may be without
it where it has.
"""

from std.sys.info import _accelerator_arch


@always_inline
def is_hopper() -> Bool:
    """Whether its tensor cores read shared memory by themselves and its copy engine fills it."""
    return _accelerator_arch().endswith("sm_90a")


@always_inline
def has_clusters() -> Bool:
    """Whether it launches blocks as clusters."""
    return is_hopper() or _accelerator_arch().endswith("sm_100a")
