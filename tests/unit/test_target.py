"""Targets: what `--target` accepts, what each needs, and what is refused."""

import platform as python_platform
from types import SimpleNamespace

import pytest
from max import driver

from mwc.compiler.target import (
    CPU_ARCHS,
    GPU_ARCHS,
    has_flash_attention,
    has_tensor_cores,
    has_vnni,
    parse_target,
)
from mwc.runtime.errors import OptionError
from mwc.runtime.platform import FEATURES_OF_ARCH, cpu_features, cpu_model

GPU_TARGETS = [f"{api}:{arch}" for api, archs in GPU_ARCHS.items() for arch in archs]


def refusal(text: str) -> str:
    with pytest.raises(OptionError) as caught:
        parse_target(text)
    return str(caught.value)


def test_cpu_is_this_very_machine() -> None:
    target = parse_target("cpu")
    assert (target.name, target.device, target.arch) == ("cpu-host", "cpu", "host")
    assert set(target.cpu_features) <= cpu_features()
    assert target.cpu_features
    assert target.cpu_model == cpu_model()


@pytest.mark.parametrize("arch", CPU_ARCHS)
def test_a_cpu_level_needs_its_features_only(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_platform, "machine", lambda: "x86_64")
    target = parse_target(f"cpu:{arch}")
    assert (target.name, target.device, target.arch) == (f"cpu-{arch}", "cpu", arch)
    assert target.cpu_features == FEATURES_OF_ARCH[arch]
    assert target.cpu_model is None


def test_x86_levels_are_refused_on_another_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_platform, "machine", lambda: "aarch64")
    message = refusal("cpu:x86-64-v3")
    assert "this is aarch64" in message
    assert "use cpu" in message


@pytest.mark.parametrize("text", GPU_TARGETS)
def test_a_gpu_need_not_be_here(text: str) -> None:
    target = parse_target(text)
    device, arch = text.split(":")
    assert (target.name, target.device, target.arch) == (f"{device}-{arch}", device, arch)
    assert (target.cpu_features, target.cpu_model) == ((), None)


@pytest.mark.parametrize(
    ("told", "meant"),
    [("sm_89", "sm_89"), ("sm_90a", "sm_90a"), ("sm_100", "sm_100a"), ("sm_120a", "sm_120")],
)
def test_gpu_is_the_first_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, told: str, meant: str
) -> None:
    monkeypatch.setattr(driver, "accelerator_count", lambda: 2)
    monkeypatch.setattr(driver, "accelerator_api", lambda: "cuda")
    monkeypatch.setattr(driver, "Accelerator", lambda i: SimpleNamespace(architecture_name=told))
    assert parse_target("gpu") == parse_target(f"cuda:{meant}")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "accelerator_count", lambda: 0)
    assert "there is no GPU in this machine" in refusal("gpu")
    assert "cuda:sm_90a" in refusal("gpu")


def test_a_gpu_that_does_not_answer_is_refused_with_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> int:
        raise RuntimeError("CUDA driver version is insufficient\nstack")

    monkeypatch.setattr(driver, "accelerator_count", fail)
    assert "does not answer (CUDA driver version is insufficient)" in refusal("gpu")


def test_tensor_cores_are_for_half_precision_on_nvidia_gpus() -> None:
    assert has_tensor_cores(parse_target("cuda:sm_89"), "bfloat16")
    assert has_tensor_cores(parse_target("cuda:sm_89"), "float16")
    assert not has_tensor_cores(parse_target("cuda:sm_89"), "float32")
    assert not has_tensor_cores(parse_target("hip:gfx942"), "bfloat16")
    assert not has_tensor_cores(parse_target("cpu"), "bfloat16")


def test_flash_attention_is_for_bfloat16_on_some_gpus() -> None:
    assert has_flash_attention(parse_target("cuda:sm_90a"), "bfloat16")
    assert not has_flash_attention(parse_target("cuda:sm_90a"), "float16")
    assert not has_flash_attention(parse_target("cuda:sm_89"), "bfloat16")
    assert not has_flash_attention(parse_target("cpu"), "bfloat16")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gpus",
        "cpu:",
        "cuda",
        "cuda:",
        "cuda:sm_1",
        "hip:sm_90a",
        "cpu:x86-64-v2",
        "CPU",
        "cpu ",
    ],
)
def test_what_is_no_target_is_refused_with_all_that_are(text: str) -> None:
    message = refusal(text)
    assert repr(text) in message
    for known in ("cpu", *(f"cpu:{arch}" for arch in CPU_ARCHS), *GPU_TARGETS):
        assert known in message


def test_vnni_is_of_this_cpu_or_of_none() -> None:
    assert has_vnni(parse_target("cpu")) == ({"avx512f", "avx512_vnni"} <= cpu_features())
    assert not any(has_vnni(parse_target(text)) for text in GPU_TARGETS)
    assert not any("avx512_vnni" in features for features in FEATURES_OF_ARCH.values())
