"""Limits that the kernel sets to this process's control groups and the groups above them. Linux.

Files of the kernel's cgroup-v2.rst and, for the first version, sched-bwc.rst and
cgroup-v1/memory.rst.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

Limit = TypeVar("Limit", int, float)
Reader = TypeVar("Reader")

_SELF = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def cpu_quotas() -> list[float]:
    """CPU quotas, in CPUs."""
    return _limits("cpu", _quota_v2, _quota_v1)


def memory_left() -> list[int]:
    """Bytes that may still be taken under each limit; pages of files can be dropped for them."""
    return _limits(
        "memory",
        lambda folder: _left(folder, "memory.max", "memory.current", "inactive_file"),
        lambda folder: _left(
            folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        ),
    )


def _limits(
    controller: str,
    read_v2: Callable[[Path], Limit | None],
    read_v1: Callable[[Path], Limit | None],
) -> list[Limit]:
    """What is read in the folder of every group; what cannot be read sets no limit."""
    found: list[Limit] = []
    for folder, read in _folders(controller, read_v2, read_v1):
        try:
            limit = read(folder)
        except (OSError, ValueError, ZeroDivisionError):
            continue
        found += [] if limit is None else [limit]
    return found


def _folders(controller: str, read_v2: Reader, read_v1: Reader) -> Iterator[tuple[Path, Reader]]:
    try:
        lines = _SELF.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            root, read = _ROOT, read_v2
        elif controller in controllers.split(","):
            root, read = _ROOT / controller, read_v1
        else:
            continue
        folder = root / group.strip("/")
        for each in (folder, *folder.parents):
            if each == root or root in each.parents:
                yield each, read


def _quota_v2(folder: Path) -> float | None:
    quota, period = (folder / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    period = int((folder / "cpu.cfs_period_us").read_text())
    return quota / period if quota > 0 else None


def _left(folder: Path, limit: str, usage: str, droppable: str) -> int | None:
    most = (folder / limit).read_text().strip()
    if most == "max":
        return None
    used = int((folder / usage).read_text())
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return max(int(most) - used + int(stat.get(droppable, 0)), 0)
