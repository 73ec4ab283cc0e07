"""Every entry point compiled for a GPU that need not be here: what comes out, not what it computes.

A tiny random model, through the compiler's child process, as `mwc convert` does it. Minutes on one
core, so it is one target, whose encoder uses tensor cores and flash attention.
"""

from pathlib import Path

import pytest
from tiny_model import tiny_model

from mwc.compiler.compile import CompileJob, compile_target
from mwc.compiler.graphs.entry_points import ENTRY_POINTS
from mwc.compiler.target import parse_target
from mwc.compiler.weights import weight_specs
from mwc.runtime.spec import GraphSignature

SPEC = tiny_model(heads=2, layers=2).spec
TARGETS = [("cuda:sm_90a", "bf16")]
CACHE = "bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize(("target", "precision"), TARGETS)
def test_every_entry_point_compiles_for_a_gpu(target: str, precision: str, tmp_path: Path) -> None:
    mef = tmp_path / "whisper.mef"
    job = CompileJob(SPEC, precision, parse_target(target), str(mef))
    signatures = {signature.name: signature for signature in compile_target(job)}
    assert list(signatures) == [entry.name for entry in ENTRY_POINTS]
    assert parse_target(target).arch.encode() in mef.read_bytes()
    assert weights_of(signatures) == set(weight_specs(SPEC, precision))
    caches = {spec.dtype for spec in signatures["step"].inputs if spec.mutable}
    assert caches == {CACHE}


def weights_of(signatures: dict[str, GraphSignature]) -> set[str]:
    """What the graphs read."""
    return {name for signature in signatures.values() for name in signature.weights}
