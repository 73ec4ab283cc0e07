"""Starting another process of Python."""

import sys

_RUN_MODULE = (
    "import sys; sys.path[:] = [folder for folder in sys.path if folder]; import runpy; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def child_command(module: str) -> list[str]:
    """The command that runs a module in another process; its arguments follow.

    As `python -m` would, but without importing from the current folder, where a user may have a
    numpy.py or json.py of their own (`-P` of Python 3.11 does the same).
    """
    return [sys.executable, "-c", _RUN_MODULE, module]
