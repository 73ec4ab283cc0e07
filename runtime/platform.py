"""What this machine's CPU can run and how much of it this process may use. Linux only.

Flag names are the kernel's, as in /proc/cpuinfo: SSE3 is "pni", LZCNT is "abm".
"""

import os
import platform
from pathlib import Path

from mwc.runtime import control_group

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_NODES = Path("/sys/devices/system/node")
_GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
"""What the drivers of NVIDIA, of AMD, and of either below Windows show themselves as."""

# x86-64 psABI, "Micro-Architecture Levels" (table 3.1): each level adds to the one before.
_LEVEL_1 = ("cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2")
_LEVEL_2 = (*_LEVEL_1, "cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3")
_LEVEL_3 = (*_LEVEL_2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
_LEVEL_4 = (*_LEVEL_3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

FEATURES_OF_ARCH: dict[str, tuple[str, ...]] = {
    "x86-64-v2": _LEVEL_2,
    "x86-64-v3": _LEVEL_3,
    "x86-64-v4": _LEVEL_4,
}
"""The flags code for a CPU level needs."""

# Further flags that name instructions a code generator may use when it compiles for the host;
# the other flags in /proc/cpuinfo describe the kernel, the hypervisor or the system.
_HOST_X86 = (
    "adx", "aes", "amx_bf16", "amx_complex", "amx_fp16", "amx_int8", "amx_tile", "avx512_4fmaps",
    "avx512_4vnniw", "avx512_bf16", "avx512_bitalg", "avx512_fp16", "avx512_vbmi2", "avx512_vnni",
    "avx512_vp2intersect", "avx512_vpopcntdq", "avx512er", "avx512ifma", "avx512pf", "avx512vbmi",
    "avx_ifma", "avx_ne_convert", "avx_vnni", "avx_vnni_int16", "avx_vnni_int8", "fma4", "gfni",
    "pclmulqdq", "rdrand", "rdseed", "sha_ni", "sse4a", "tbm", "vaes", "vpclmulqdq", "xop",
    "xsavec", "xsaveopt",
)  # fmt: skip
_HOST_ARM = (
    "aes", "asimd", "asimddp", "asimdfhm", "asimdhp", "asimdrdm", "atomics", "bf16", "crc32",
    "fcma", "fp", "fphp", "i8mm", "jscvt", "lrcpc", "pmull", "sha1", "sha2", "sha3", "sha512",
    "sve", "sve2", "svebf16", "svei8mm",
)  # fmt: skip
_HOST_FLAGS = frozenset(_LEVEL_4) | frozenset(_HOST_X86) | frozenset(_HOST_ARM)


def cpu_features() -> frozenset[str]:
    """Every flag of the first CPU in /proc/cpuinfo ("flags" on x86, "Features" on ARM)."""
    return frozenset(_cpuinfo("flags", "Features").split())


def host_features() -> tuple[str, ...]:
    """The flags that code compiled for this very CPU may depend on, sorted."""
    return tuple(sorted(cpu_features() & _HOST_FLAGS))


def cpu_model() -> str:
    """The CPU's name as /proc/cpuinfo gives it, else the machine type, for example "aarch64"."""
    return _cpuinfo("model name") or platform.machine()


def usable_cpus() -> int:
    """How many CPUs this process may keep busy, at least 1.

    The smaller of its affinity mask and its control group's CPU quota; a fraction is rounded
    down, since threads beyond the quota are paused (as Rust's std::thread::available_parallelism).
    """
    allowed = len(os.sched_getaffinity(0))
    quotas = control_group.cpu_quotas()
    return max(1, min([allowed, *(int(quota) for quota in quotas)]))


def cpus_by_node() -> list[int]:
    """The CPUs of this process's affinity mask, those that share a memory next to each other.

    A NUMA node's folder has a link to each of its CPUs (sysfs-devices-node of the kernel).
    """
    node_of = {
        int(cpu.name[len("cpu") :]): int(node.name[len("node") :])
        for node in _NODES.glob("node[0-9]*")
        for cpu in node.glob("cpu[0-9]*")
    }
    return sorted(os.sched_getaffinity(0), key=lambda cpu: (node_of.get(cpu, 0), cpu))


def has_gpu_driver() -> bool:
    """Whether a driver for GPUs is at work here; MAX, which knows which GPUs, is not asked."""
    return any(driver.exists() for driver in _GPU_DRIVERS)


def free_memory() -> int | None:
    """Bytes this process may still take: of the machine's and its control groups'; None: unknown.

    What the machine has is the kernel's own estimate, without swap ("MemAvailable" in proc(5)).
    """
    try:
        lines = _MEMINFO.read_text().splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return min(control_group.memory_left(), default=None)
    return min([kib * 1024, *control_group.memory_left()])


def _cpuinfo(*keys: str) -> str:
    """The value of the first line of /proc/cpuinfo with one of these keys, or ""."""
    try:
        lines = _CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""
