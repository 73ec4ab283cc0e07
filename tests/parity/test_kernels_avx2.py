"""The kernels again as code for other CPUs: AVX2, and AVX-512 without VNNI and bf16.

Vector widths and tile sizes differ there, and int8 sums are made of other instructions.

MAX settles on a CPU once per process, so their tests run in a process of its own.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mwc.compiler.target import CPU_ARCHS, parse_target
from mwc.runtime.platform import FEATURES_OF_ARCH, cpu_features

FOLDER = Path(__file__).resolve().parent
FILES = (
    "test_kernels.py",
    "test_int8_kernels.py",
    "test_attention_kernels.py",
    "test_byte_caches.py",
    "test_norm_choose.py",
    "test_vad_kernels.py",
)


def own_arch() -> str:
    """The last level of x86-64 whose features this CPU has."""
    present = cpu_features()
    levels = [arch for arch, needed in FEATURES_OF_ARCH.items() if set(needed) <= present]
    return levels[-1] if "avx512_vnni" not in present else "with more than any level"


@pytest.mark.parametrize("arch", CPU_ARCHS)
def test_every_kernel_is_right_as_code_for_another_cpu(arch: str) -> None:
    if platform.machine() != "x86_64":
        pytest.skip(f"{arch} is x86-64 and this is {platform.machine()}")
    if not set(parse_target(f"cpu:{arch}").cpu_features) <= cpu_features():
        pytest.skip(f"this CPU is not {arch}")
    if arch == own_arch():
        pytest.skip(f"code for this CPU is code for {arch}: all other tests run it")
    command = [sys.executable, "-m", "pytest", "-q", *(str(FOLDER / name) for name in FILES)]
    environment = {**os.environ, "MWC_TEST_CPU": arch}
    done = subprocess.run(
        command, env=environment, cwd=FOLDER.parent.parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
