"""The child process of `compile.py`: build one target's graphs, compile, export, report.

python -m mwc.compiler.compile_child JOB.json SIGNATURES.json
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mwc.compiler.compile import CompileJob, read_job, write_signatures
from mwc.compiler.target import Target, has_flash_attention, has_tensor_cores
from mwc.compiler.weights import CACHES, PRECISIONS, weight_specs
from mwc.runtime.errors import CompileError

if TYPE_CHECKING:
    from max.driver import Device

    from mwc.compiler.graphs.scope import Plan


def main(description: str, result: str) -> None:
    """Compile the job described in one file and write the signatures to the other."""
    job = read_job(Path(description).read_text())
    device = open_target(job.target)

    from max.engine import InferenceSession

    from mwc.compiler.graphs.entry_points import build_module, entry_points_of, load_kernels

    plan = make_plan(job)
    _, kernels = load_kernels(plan.kernels)
    plan = replace(plan, kernels=kernels)  # precompiled, once for all graphs
    entries = tuple(e for e in entry_points_of(plan) if e.name in job.only or not job.only)
    module, signatures = build_module(plan, entries)
    session = InferenceSession(devices=[device])
    session.compile(module, custom_extensions=[kernels]).export_mef(job.mef)
    check_architecture(Path(job.mef), job.target)
    write_signatures(signatures, Path(result))


def open_target(target: Target) -> "Device":
    """Point MAX at the target; this has to come before anything else is compiled."""
    from max import driver

    if target.device == "cpu":
        if target.arch != "host":
            driver.set_virtual_cpu_target(target.arch)
        return driver.CPU()
    driver.set_virtual_device_api(target.device)
    driver.set_virtual_device_target_arch(target.arch)
    driver.set_virtual_device_count(1)
    return driver.Accelerator(0)


def make_plan(job: CompileJob) -> "Plan":
    """The dtypes and device that the graphs are built for.

    A CPU computes in float32 whatever the weights' precision; a GPU in the weights' own. Caches
    have the precision's dtype; with int8 those of self-attention float16, and those of
    cross-attention bytes.
    """
    from max.graph import DeviceRef

    from mwc.compiler.graphs.scope import Plan

    on_cpu = job.target.device == "cpu"
    dtype = PRECISIONS[job.precision]
    return Plan(
        spec=job.spec,
        device=DeviceRef.CPU() if on_cpu else DeviceRef.GPU(),
        weights={s.name: s for s in job.weights} or weight_specs(job.spec, job.precision),
        activations="float32" if on_cpu else dtype,
        cache=CACHES[job.precision],
        tensor_cores=has_tensor_cores(job.target, dtype),
        flash_attention=has_flash_attention(job.target, dtype),
    )


def check_architecture(mef: Path, target: Target) -> None:
    """A GPU file names its architecture; one that does not holds another target's code."""
    if target.device != "cpu" and target.arch.encode() not in mef.read_bytes():
        raise CompileError(f"{mef} holds no code for {target.arch}")


if __name__ == "__main__":
    main(*sys.argv[1:])
    # MAX's teardown aborts a process that held a virtual device; all files are written and closed.
    sys.stdout.flush()
    os._exit(0)
