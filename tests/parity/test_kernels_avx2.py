"""The kernels again as AVX2 code: other vector widths and tile sizes than on an AVX-512 machine.

MAX settles on a CPU once per process, so their tests run in a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mwc.compiler.target import parse_target
from mwc.runtime.errors import OptionError
from mwc.runtime.platform import cpu_features

FOLDER = Path(__file__).resolve().parent
FILES = ("test_kernels.py", "test_int8_kernels.py", "test_attention_kernels.py")


def test_every_kernel_is_right_as_avx2_code() -> None:
    try:
        needed = set(parse_target("cpu:x86-64-v3").cpu_features)
    except OptionError as error:
        pytest.skip(str(error))
    if not needed <= cpu_features():
        pytest.skip("this CPU has no AVX2")
    command = [sys.executable, "-m", "pytest", "-q", *(str(FOLDER / name) for name in FILES)]
    environment = {**os.environ, "MWC_TEST_CPU": "x86-64-v3"}
    done = subprocess.run(
        command, env=environment, cwd=FOLDER.parent.parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
