"""Pointers that structs may hold: the compiler does not follow what these point to."""

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
