"""The first import of MAX, from whichever thread it comes."""

import atexit
import sys
import threading

_CONTEXT = "max._mlir_context"


def import_max() -> None:
    """Import MAX such that the process ends without a word about it.

    MAX enters an MLIR context in the thread that imports it, and leaves it at exit in the main one
    (`max/_mlir_context.py`). Where those are two, Python would print an error as its last words; so
    the main thread enters it just before.
    """
    if _CONTEXT in sys.modules:
        return
    import max.engine  # noqa: F401

    context = sys.modules.get(_CONTEXT)
    if context is not None and threading.current_thread() is not threading.main_thread():
        atexit.register(context.default_mlir_context().__enter__)
