"""`mwc.compiler.compile_child`, but it builds a GPU's graphs for this CPU.

The kernels that only a GPU can run are replaced by those in this folder, which do the same in plain
loops. MAX's flash attention has no such stand-in: the kernel for GPUs without it takes its place.
"""

import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from mwc.compiler import compile_child
from mwc.compiler.graphs.scope import KERNELS, Plan
from mwc.compiler.target import parse_target


class GPUPlan(Plan):
    """A plan for a GPU whose device is a CPU."""

    on_gpu = True  # type: ignore[assignment]


def main(description: str, result: str) -> None:
    with tempfile.TemporaryDirectory(prefix="mwc-kernels-") as folder:
        kernels = Path(folder, "kernels")
        shutil.copytree(KERNELS, kernels)
        for stand_in in Path(__file__).parent.glob("*.mojo"):
            assert (kernels / stand_in.name).is_file()
            shutil.copy(stand_in, kernels)
        make_plan: Any = compile_child.make_plan

        def plan_of(job: Any) -> Plan:
            on_cpu = make_plan(job)
            on_gpu = make_plan(replace(job, target=parse_target("cuda:sm_90a")))
            return GPUPlan(
                spec=job.spec,
                device=on_cpu.device,
                weights=on_gpu.weights,
                activations=on_gpu.activations,
                cache=on_gpu.cache,
                kernels=kernels,
                tensor_cores=on_gpu.tensor_cores,
                flash_attention=False,
            )

        compile_child.make_plan = plan_of
        compile_child.main(description, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)
