"""What the machine can do, read from files that other machines would show."""

from pathlib import Path

import pytest

from mwc.runtime import control_group, platform

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu sse sse2 avx avx2 avx512_fp16 constant_tsc hypervisor
vmx flags\t: ept vpid

processor\t: 1
flags\t\t: fpu
"""
ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes bf16 i8mm
CPU implementer\t: 0x41
"""


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platform, "_CPUINFO", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


def test_x86(cpuinfo: Path) -> None:
    cpuinfo.write_text(X86)
    assert platform.cpu_features() == set(
        ["fpu", "sse", "sse2", "avx", "avx2", "avx512_fp16", "constant_tsc", "hypervisor"]
    )
    assert platform.host_features() == ("avx", "avx2", "avx512_fp16", "fpu", "sse", "sse2")
    assert platform.cpu_model() == "Intel(R) Xeon(R) Platinum 8480+"


def test_arm(cpuinfo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo.write_text(ARM)
    monkeypatch.setattr(platform.platform, "machine", lambda: "aarch64")
    assert platform.host_features() == ("aes", "asimd", "bf16", "fp", "i8mm")
    assert platform.cpu_model() == "aarch64"


def test_no_cpuinfo(cpuinfo: Path) -> None:
    assert platform.cpu_features() == frozenset()
    assert platform.cpu_model()


def test_each_level_adds_to_the_one_before() -> None:
    levels = [set(platform.FEATURES_OF_ARCH[f"x86-64-v{n}"]) for n in (2, 3, 4)]
    assert levels[0] < levels[1] < levels[2]
    assert "avx2" in levels[1] - levels[0]
    assert "avx512f" in levels[2] - levels[1]
    assert all(len(set(flags)) == len(flags) for flags in platform.FEATURES_OF_ARCH.values())


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty control group tree on a machine with eight CPUs; `self` is the process's groups."""
    (tmp_path / "fs").mkdir()
    monkeypatch.setattr(control_group, "_SELF", tmp_path / "self")
    monkeypatch.setattr(control_group, "_ROOT", tmp_path / "fs")
    monkeypatch.setattr(platform.os, "sched_getaffinity", lambda _: set(range(8)))
    return tmp_path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_affinity_alone(cgroup: Path) -> None:
    assert platform.usable_cpus() == 8


def test_the_tightest_quota_above_the_process(cgroup: Path) -> None:
    put(cgroup / "self", "0::/a/b\n")
    put(cgroup / "fs/a/b/cpu.max", "max 100000\n")
    assert platform.usable_cpus() == 8
    put(cgroup / "fs/a/cpu.max", "350000 100000\n")
    assert platform.usable_cpus() == 3
    put(cgroup / "fs/cpu.max", "150000 100000\n")
    assert platform.usable_cpus() == 1
    put(cgroup / "fs/a/b/cpu.max", "20000 100000\n")
    assert platform.usable_cpus() == 1


def test_a_quota_of_the_first_version(cgroup: Path) -> None:
    put(cgroup / "self", "5:memory:/x\n4:cpu,cpuacct:/docker/1\n0::/\n")
    put(cgroup / "fs/cpu/docker/1/cpu.cfs_quota_us", "200000\n")
    put(cgroup / "fs/cpu/docker/1/cpu.cfs_period_us", "100000\n")
    assert platform.usable_cpus() == 2
    put(cgroup / "fs/cpu/docker/1/cpu.cfs_quota_us", "-1\n")
    assert platform.usable_cpus() == 8


def test_a_group_outside_the_mounted_tree(cgroup: Path) -> None:
    """In a container without a cgroup namespace the path is the host's; the root still counts."""
    put(cgroup / "self", "0::/host/docker-1.scope\n")
    put(cgroup / "fs/cpu.max", "200000 100000\n")
    assert platform.usable_cpus() == 2
    put(cgroup / "self", "0::/../../other\n")
    assert platform.usable_cpus() == 2


def test_a_quota_larger_than_the_affinity(cgroup: Path) -> None:
    put(cgroup / "self", "0::/\n")
    put(cgroup / "fs/cpu.max", "6400000 100000\n")
    assert platform.usable_cpus() == 8


@pytest.fixture
def meminfo(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platform, "_MEMINFO", cgroup / "meminfo")
    return cgroup / "meminfo"


def test_memory_of_the_machine(cgroup: Path, meminfo: Path) -> None:
    assert platform.free_memory() is None
    put(meminfo, "MemTotal:  9000 kB\nMemFree:  1 kB\nMemAvailable:  4000 kB\n")
    assert platform.free_memory() == 4000 * 1024


def test_memory_that_the_groups_leave(cgroup: Path, meminfo: Path) -> None:
    put(meminfo, "MemAvailable:  4000 kB\n")
    put(cgroup / "self", "0::/a\n")
    put(cgroup / "fs/a/memory.max", "max\n")
    assert platform.free_memory() == 4000 * 1024
    put(cgroup / "fs/memory.max", "3000000\n")
    put(cgroup / "fs/memory.current", "2500000\n")
    put(cgroup / "fs/memory.stat", "anon 1000\ninactive_file 700000\n")
    assert platform.free_memory() == 1_200_000
    put(cgroup / "fs/memory.current", "9000000\n")
    assert platform.free_memory() == 0


def test_memory_of_a_group_of_the_first_version(cgroup: Path, meminfo: Path) -> None:
    put(cgroup / "self", "4:memory:/x\n")
    put(cgroup / "fs/memory/x/memory.limit_in_bytes", "9223372036854771712\n")
    put(cgroup / "fs/memory/x/memory.usage_in_bytes", "4096\n")
    put(cgroup / "fs/memory/x/memory.stat", "cache 1\ntotal_inactive_file 96\n")
    put(meminfo, "MemAvailable:  4000 kB\n")
    assert platform.free_memory() == 4000 * 1024
    put(cgroup / "fs/memory/x/memory.limit_in_bytes", "14096\n")
    assert platform.free_memory() == 10096


def test_a_gpu_driver_is_seen_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "_GPU_DRIVERS", (tmp_path / "nvidiactl", tmp_path / "kfd"))
    assert not platform.has_gpu_driver()
    (tmp_path / "kfd").touch()
    assert platform.has_gpu_driver()
