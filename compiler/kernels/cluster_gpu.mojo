"""How blocks of a cluster reach each other's shared memory (Hopper and later)."""

from max.gpu.memory import AddressSpace
from std.sys._assembly import inlined_assembly
from std.sys.info import _accelerator_arch

comptime MOST_BLOCKS = 8
"""Of a cluster, on every GPU that has them."""


@always_inline
def has_clusters() -> Bool:
    """Whether the GPU that is compiled for launches blocks as clusters.

    Its name may have the vendor's before it: it does where the GPU is not here.
    """
    comptime arch = _accelerator_arch()
    return arch.endswith("sm_90a") or arch.endswith("sm_100a")


@always_inline
def in_first_block(own: Pointer[Float32, _, address_space=AddressSpace.SHARED]) -> UInt32:
    """The address of the same place in the shared memory of the cluster's first block."""
    return inlined_assembly[
        "mapa.shared::cluster.u32 $0, $1, $2;",
        UInt32,
        constraints="=r,r,r",
        has_side_effect=True,
    ](UInt32(Int(own)), UInt32(0))


@always_inline
def store_in_cluster(address: UInt32, i: Int, value: Float32):
    """Put a number at [i] of an address in the shared memory of the cluster.

    Its block has to have begun, and reads it after `cluster_sync`.
    """
    inlined_assembly[
        "st.shared::cluster.f32 [$0], $1;",
        NoneType,
        constraints="r,f,~{memory}",
        has_side_effect=True,
    ](address + UInt32(4 * i), value)
