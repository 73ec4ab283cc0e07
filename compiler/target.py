"""Targets: what `--target` accepts, and what compiling for each means.

cpu               this very CPU; the code needs every feature that it has
cpu:x86-64-v3     any CPU of that level (AVX2)
cpu:x86-64-v4     any CPU of that level (AVX-512)
gpu               the GPU of this machine
cuda:sm_90a       an NVIDIA GPU of that architecture, which need not be attached
hip:gfx942        an AMD GPU of that architecture, likewise
"""

import platform
from dataclasses import dataclass

from mwc.runtime.errors import OptionError, first_line
from mwc.runtime.platform import FEATURES_OF_ARCH, cpu_model, host_features

CPU_ARCHS = ("x86-64-v3", "x86-64-v4")
"""CPU levels that MAX compiles for; an unknown name aborts its compiler, so none passes here."""

GPU_ARCHS = {
    "cuda": ("sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100a", "sm_120"),
    "hip": ("gfx942", "gfx950"),
}
"""GPU architectures by MAX's API name: A100, RTX 30 and 40, H100/H200, Blackwell, MI300, MI350."""

FLASH_ATTENTION = ("sm_80", "sm_90", "sm_90a", "sm_100a")
"""GPUs for whose tensor cores MAX has flash attention of heads of 64 in bfloat16."""


@dataclass(frozen=True)
class Target:
    """A kind of machine to compile for.

    Attributes:
        name: as in the artifact, for example "cpu-host", "cpu-x86-64-v3", "cuda-sm_90a".
        device: "cpu", "cuda" or "hip".
        arch: "host" or the architecture's name.
        cpu_features: /proc/cpuinfo flags the code needs; empty for a GPU.
        cpu_model: the CPU of a "host" target, for people.
    """

    name: str
    device: str
    arch: str
    cpu_features: tuple[str, ...]
    cpu_model: str | None


def parse_target(text: str) -> Target:
    """Understand one `--target`.

    Raises:
        OptionError: it is none of the known targets, or cannot be compiled on this machine.
    """
    device, _, arch = text.partition(":")
    if text == "gpu":
        return parse_target(attached_gpu())
    if text == "cpu":
        return Target("cpu-host", "cpu", "host", host_features(), cpu_model())
    if device == "cpu" and arch in CPU_ARCHS:
        if platform.machine() != "x86_64":
            raise OptionError(
                f"target {text!r} is an x86-64 CPU and this is {platform.machine()}: MAX compiles "
                "CPU code for its own family only; convert on an x86-64 machine, or use cpu."
            )
        return Target(f"cpu-{arch}", "cpu", arch, FEATURES_OF_ARCH[arch], None)
    if arch in GPU_ARCHS.get(device, ()):
        return Target(f"{device}-{arch}", device, arch, (), None)
    known = ["cpu", *(f"cpu:{a}" for a in CPU_ARCHS), "gpu"]
    known += [f"{api}:{a}" for api, archs in GPU_ARCHS.items() for a in archs]
    raise OptionError(f"target {text!r} is not one of {', '.join(known)}.")


def attached_gpu() -> str:
    """The first GPU of this machine as a target, such as "cuda:sm_90a".

    Raises:
        OptionError: there is none, or its driver does not answer.
    """
    from max.driver import Accelerator, accelerator_api, accelerator_count

    try:
        if accelerator_count():
            return _as_known(accelerator_api(), Accelerator(0).architecture_name)
        reason = "there is no GPU in this machine"
    except (RuntimeError, ValueError) as error:
        reason = f"the GPU of this machine does not answer ({first_line(error)})"
    raise OptionError(
        f"target 'gpu' is this machine's own and {reason}; name the one to compile for, such as "
        "cuda:sm_90a."
    )


def _as_known(api: str, arch: str) -> str:
    """A GPU by the name in GPU_ARCHS: drivers may say sm_120a where code for sm_120 is meant."""
    names = {name.removesuffix("a"): name for name in GPU_ARCHS.get(api, ())}
    known = arch in GPU_ARCHS.get(api, ())
    return f"{api}:{arch if known else names.get(arch.removesuffix('a'), arch)}"


def has_vnni(target: Target) -> bool:
    """Whether its CPU adds products of bytes in 32 bits (kernels/quantized.mojo, VNNI)."""
    return {"avx512f", "avx512_vnni"} <= set(target.cpu_features)


def has_tensor_cores(target: Target, dtype: str) -> bool:
    """Whether matrices are multiplied on tensor cores."""
    return dtype in ("bfloat16", "float16") and target.device == "cuda"


def has_flash_attention(target: Target, dtype: str) -> bool:
    """Whether MAX has flash attention for a target's GPU and a dtype."""
    return dtype == "bfloat16" and target.device == "cuda" and target.arch in FLASH_ATTENTION
