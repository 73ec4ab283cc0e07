"""Graphs compiled for a GPU that need not be here: what comes out, not what it computes.

A tiny random model, through the compiler's child process, as `mwc convert` does it. It takes
minutes on one core, so it is one target, whose encoder uses tensor cores and flash attention, and
the entry points that have every kernel among them: the others have no operation of their own.
"""

from pathlib import Path

import pytest
from tiny_model import tiny_model

from mwc.compiler.compile import CompileJob, compile_target
from mwc.compiler.target import parse_target
from mwc.compiler.weights import weight_specs
from mwc.runtime.spec import GraphSignature

SPEC = tiny_model(heads=2, layers=2).spec
TARGETS = [("cuda:sm_90a", "bf16")]
CACHE = "bfloat16"
ENTRIES = ("log_mel", "vad", "encode", "steps", "copy_rows", "align")

OWN_KERNELS = (b"mwc_matmul_hopper_",)
"""Names of kernels that are chosen for this architecture: the choice is made by its name."""

FOR_CPUS = {"log_mel.factors", "log_mel.bands", "vad.factors"}
"""Weights that no graph for a GPU reads."""


@pytest.mark.slow
@pytest.mark.parametrize(("target", "precision"), TARGETS)
def test_every_kernel_compiles_for_a_gpu(target: str, precision: str, tmp_path: Path) -> None:
    mef = tmp_path / "whisper.mef"
    job = CompileJob(SPEC, precision, parse_target(target), str(mef), ENTRIES)
    signatures = {signature.name: signature for signature in compile_target(job)}
    assert tuple(signatures) == ENTRIES
    code = mef.read_bytes()
    assert parse_target(target).arch.encode() in code
    assert all(kernel in code for kernel in OWN_KERNELS)
    assert weights_of(signatures) == set(weight_specs(SPEC, precision)) - FOR_CPUS
    caches = {spec.dtype for spec in signatures["steps"].inputs if spec.mutable}
    assert caches == {CACHE}


def weights_of(signatures: dict[str, GraphSignature]) -> set[str]:
    """What the graphs read."""
    return {name for signature in signatures.values() for name in signature.weights}
