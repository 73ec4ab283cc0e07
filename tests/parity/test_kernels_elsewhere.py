"""The kernels as code for CPUs that need not be here: they compile, to the instructions meant.

MAX compiles graphs for its own family of CPUs only, so a program that calls the kernels' functions
(`kernels_elsewhere.mojo`) is compiled to assembly, for Arm too. Nothing of it is run.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mwc.compiler.graphs.scope import KERNELS

MOJO = Path(sys.executable).parent / "mojo"
PROGRAM = Path(__file__).resolve().parent / "kernels_elsewhere.mojo"


@pytest.mark.parametrize(
    ("family", "cpu", "used", "unused"),
    [
        ("aarch64", "neoverse-n1", {"fmla"}, {"vpdpbusd"}),
        ("x86_64", "znver4", {"vpdpbusd", "vpdpwssd", "vfmadd231ps"}, {"vpmaddwd", "vpmaddubsw"}),
        (
            "x86_64",
            "x86-64-v4",
            {"vpmaddwd", "vpmaddubsw", "vfmadd231ps"},
            {"vpdpbusd", "vpdpwssd"},
        ),
    ],
)
def test_kernels_compile_for_another_cpu(
    family: str, cpu: str, used: set[str], unused: set[str], tmp_path: Path
) -> None:
    assembly = tmp_path / "kernels.s"
    command = [
        str(MOJO),
        "build",
        "--emit",
        "asm",
        "--target-triple",
        f"{family}-unknown-linux-gnu",
    ]
    command += ["--target-cpu", cpu, "-I", str(KERNELS.parent), "-o", str(assembly), str(PROGRAM)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    words = set(re.findall(r"\w+", assembly.read_text()))
    assert used <= words
    assert not unused & words
