"""What this process has open."""

import os
from contextlib import suppress

DESCRIPTORS = "/proc/self/fd"


def open_files() -> list[str]:
    """What each descriptor of this process leads to. Other threads may open and close meanwhile."""
    found = []
    for descriptor in os.listdir(DESCRIPTORS):
        with suppress(FileNotFoundError):  # closed since, as the folder itself is
            found.append(os.readlink(f"{DESCRIPTORS}/{descriptor}"))
    return found
