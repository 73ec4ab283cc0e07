"""What a result was measured on, and how a benchmark tells how far it is."""

import os
import platform
import shlex
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ISA_LIMITS = ("CT2_FORCE_CPU_ISA", "ONEDNN_MAX_CPU_ISA")
"""Environment variables that hold faster-whisper to a part of the CPU's instructions."""


def machine(packages: Iterable[str]) -> dict[str, Any]:
    """Describe this machine, the versions that count, the command line and how busy it was."""
    return {
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in sorted(set(packages))},
        "load_average": round(os.getloadavg()[0], 2),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
    }


def command_line() -> str:
    """The command of this process, behind what limits other engines' instructions."""
    limits = [f"{name}={os.environ[name]}" for name in ISA_LIMITS if name in os.environ]
    return shlex.join([*limits, "python", *sys.argv])


def machine_lines(found: dict[str, Any]) -> list[str]:
    """The same as Markdown."""
    versions = ", ".join(f"{name} {v}" for name, v in found["versions"].items())
    return [
        f"{found['date']}, {found['cpu']}, {found['cpus']} CPUs, {found['memory_gib']} GiB, "
        f"{found['system']}, Python {found['python']}; load average {found['load_average']} at "
        "the start.",
        "",
        f"Versions: {versions}.",
        "",
        "```sh",
        found["command"],
        "```",
    ]


def cpu_model() -> str:
    """The name in /proc/cpuinfo, with the widest vector instructions that matter here."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    flags = fields.get("flags", "").split()
    wide = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_tile") if flag in flags]
    family = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    return f"{fields.get('model name', platform.machine())} ({family}; {' '.join(wide)})"


def package_version(name: str) -> str:
    """An installed distribution's version."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def say(text: str) -> None:
    """Tell on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def memory(field: str) -> float:
    """A field of /proc/self/status, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
