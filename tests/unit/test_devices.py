"""Which device runs what, with accelerators that are not here."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_artifact import target, write_small_artifact

from mwc.runtime import graph_files
from mwc.runtime.artifact import Artifact, open_artifact, select_target
from mwc.runtime.devices import (
    accelerator_names,
    accelerators,
    device_memory,
    open_device,
    parse_device,
)
from mwc.runtime.errors import MemoryShortage, OptionError, TargetError
from mwc.runtime.graph_files import load_weights

CPU = target("cpu-host")
H100 = target("cuda-sm_90a", device="cuda", arch="sm_90a")


class FakeDriver:
    """Accelerators of these architectures; opening one with no name fails."""

    def __init__(self, *archs: str, error: str | None = None) -> None:
        self.archs, self.error = archs, error
        self.opened: list[int] = []

    def accelerator_api(self) -> str:
        if self.error is not None:
            raise RuntimeError(self.error)
        return "cuda"

    def accelerator_count(self) -> int:
        return len(self.archs)

    def accelerator(self, index: int) -> Any:
        self.opened.append(index)
        return SimpleNamespace(architecture_name=self.archs[index], index=index)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    write_small_artifact(tmp_path / "out", CPU, H100)
    return open_artifact(tmp_path / "out", check_max=False)


def install(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    import max.driver

    monkeypatch.setattr(max.driver, "accelerator_api", driver.accelerator_api)
    monkeypatch.setattr(max.driver, "accelerator_count", driver.accelerator_count)
    monkeypatch.setattr(max.driver, "Accelerator", driver.accelerator)
    return driver


def test_the_one_that_fits_is_opened(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    install(FakeDriver("sm_80", "sm_90", "sm_90"), monkeypatch)
    present = accelerators(artifact.manifest.targets)
    assert present == {0: ("cuda", "sm_80"), 1: ("cuda", "sm_90"), 2: ("cuda", "sm_90")}
    chosen = select_target(artifact, "auto", present.values())
    assert chosen.name == "cuda-sm_90a"
    opened: Any = open_device(chosen, present, None)
    assert opened.index == 1
    second: Any = open_device(chosen, {2: present[2]}, None)
    assert second.index == 2
    assert accelerator_names(artifact) == ("gpu:1", "gpu:2")


def test_the_cpu_needs_no_driver(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(
        FakeDriver(error="CUDA driver version is insufficient\nat driver.cc"), monkeypatch
    )
    for device in ("cpu", "cpu-host"):
        assert accelerators(artifact.manifest.targets, device) == {}
    assert not driver.opened
    for device in ("auto", "gpu", "cuda-sm_90a"):
        with pytest.raises(TargetError) as caught:
            accelerators(artifact.manifest.targets, device)
        assert str(caught.value) == (
            "the GPUs of this machine do not answer: CUDA driver version is insufficient; update "
            "their driver, or use the CPU (--device cpu)."
        )


def test_no_accelerator(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    install(FakeDriver(), monkeypatch)
    assert (
        select_target(artifact, "auto", accelerators(artifact.manifest.targets).values()).name
        == "cpu-host"
    )
    with pytest.raises(TargetError, match=r"needs a cuda sm_90a \(present: none\)"):
        accelerator_names(artifact)
    install(FakeDriver("sm_80"), monkeypatch)
    with pytest.raises(TargetError, match=r"needs a cuda sm_90a \(present: cuda sm_80\)"):
        accelerator_names(artifact)


def test_one_that_cannot_be_opened(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    install(FakeDriver("sm_90"), monkeypatch)
    present = accelerators(artifact.manifest.targets)

    def busy(index: int) -> None:
        raise ValueError("device is in use")

    monkeypatch.setattr("max.driver.Accelerator", busy)
    with pytest.raises(TargetError, match="gpu:0 cannot be opened: device is in use; free it"):
        open_device(select_target(artifact, "gpu", present.values()), present, None)


def test_names_of_devices() -> None:
    assert parse_device("gpu:1") == ("gpu", 1)
    for device in ("auto", "gpu", "cpu", "cpu:x86-64-v3"):
        assert parse_device(device) == (device, None)
    for device in ("gpu:", "gpu:one", "gpu:-1"):
        with pytest.raises(OptionError, match="the first GPU is gpu:0"):
            parse_device(device)


def test_one_of_several_by_its_number(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(FakeDriver("sm_80", "sm_90"), monkeypatch)
    targets = artifact.manifest.targets
    assert accelerators(targets, "gpu", 1) == {1: ("cuda", "sm_90")}
    assert driver.opened == [1]
    with pytest.raises(OptionError) as caught:
        accelerators(targets, "gpu", 2)
    assert str(caught.value) == "device is 'gpu:2', which is not here; there is gpu:0, gpu:1."
    install(FakeDriver(), monkeypatch)
    assert accelerators(targets, "gpu", 1) == {}  # what the artifact needs is told then


def test_memory_of_a_driver_that_does_not_tell() -> None:
    told: Any = SimpleNamespace(stats={"free_memory": 3, "total_memory": 8})
    silent: Any = SimpleNamespace(stats={"free_memory": 0, "total_memory": 8})
    assert (device_memory(told), device_memory(silent)) == (3, 8)


def test_weights_that_do_not_fit(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    huge: Any = SimpleNamespace(nbytes=3 << 30)
    names = {name for graph in H100.graphs for name in graph.weights}
    mapped = {name: np.zeros(1, np.float32) for name in names} | {sorted(names)[0]: huge}
    monkeypatch.setattr(graph_files, "map_weights", lambda artifact, precision: mapped)
    device: Any = SimpleNamespace(stats={"free_memory": 2 << 30})
    with pytest.raises(MemoryShortage, match=r"weights need 3.0 GiB on cuda-sm_90a, where 2.0 GiB"):
        load_weights(artifact, H100, device)
