"""Pointers that structs may hold, and room they point to: the compiler does not follow these."""

comptime Values = Pointer[Float32, ImmUntrackedOrigin]
comptime Numbers = Pointer[Float32, MutUntrackedOrigin]


@always_inline
def untracked[T: AnyType](pointer: Pointer[mut=False, T, _]) -> Pointer[T, ImmUntrackedOrigin]:
    """The pointer for a struct, which does not keep alive what it points to."""
    return pointer.unsafe_origin_cast[ImmUntrackedOrigin]()


@always_inline
def untracked_mut[T: AnyType](pointer: Pointer[mut=True, T, _]) -> Pointer[T, MutUntrackedOrigin]:
    """The same for what is written to."""
    return pointer.unsafe_origin_cast[MutUntrackedOrigin]()


struct Room[T: Copyable & Deinitable](Movable):
    """Room for values that several threads write to, each its own; not set to anything."""

    var values: List[Self.T]
    var at: Pointer[Self.T, MutUntrackedOrigin]

    def __init__(out self, size: Int):
        """For `size` values."""
        self.values = List[Self.T](unsafe_uninit_length=size)
        self.at = untracked_mut(self.values.unsafe_ptr())
