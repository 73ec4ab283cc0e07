"""How blocks of a cluster reach each other's shared memory (Hopper and later)."""

from max.gpu.memory import AddressSpace
from std.sys._assembly import inlined_assembly

comptime MOST_BLOCKS = 8
"""Of a cluster, on every GPU that has them."""


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
