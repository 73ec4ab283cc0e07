"""A fleet of two real processes on this CPU, one thread each."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import speech_like

from mwc.cli.main import main
from mwc.runtime import AudioError, DeviceError, Model, OptionError, load_fleet

FILES: list[Any] = [speech_like(2.0 + i, i).astype(np.float32) for i in range(6)]
OPTIONS: dict[str, Any] = {"language": "en", "temperature": 0.0, "sample_len": 12}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this process has one CPU")
@pytest.mark.parametrize("batch_size", [1, 3])
def test_as_one_model(random_artifact: Path, random_model: Model, batch_size: int) -> None:
    options = {**OPTIONS, "batch_size": batch_size}
    expected = list(random_model.transcribe_many(FILES, **options))
    with load_fleet(random_artifact, devices=["cpu", "cpu"], threads=1) as fleet:
        processes = [worker.process for worker in fleet._workers]
        shares = [os.sched_getaffinity(process.pid) for process in processes if process]
        assert set.union(*shares) == os.sched_getaffinity(0)
        assert not set.intersection(*shares)
        assert fleet.targets == (random_model.target,) * 2
        assert list(fleet.transcribe_many(FILES, **options)) == expected
        found = list(fleet.transcribe_many(["missing.wav", FILES[0]], skip_errors=True, **OPTIONS))
        assert isinstance(found[0], AudioError)
        assert "missing.wav" in str(found[0])
    assert all(process is not None and process.poll() is not None for process in processes)


def test_threads_of_a_process(random_artifact: Path) -> None:
    with pytest.raises(OptionError, match="threads is 1000"):
        load_fleet(random_artifact, devices="cpu", threads=1000)


def test_a_process_that_dies(random_artifact: Path) -> None:
    with load_fleet(random_artifact, devices="cpu") as fleet:
        (worker,) = fleet._workers
        assert worker.process is not None
        worker.process.send_signal(signal.SIGKILL)
        with pytest.raises(DeviceError, match="the process for cpu ended unexpectedly"):
            list(fleet.transcribe_many(FILES, **OPTIONS))


def test_a_device_that_is_not_there(random_artifact: Path) -> None:
    with pytest.raises(OptionError, match="device is 'tpu'"):
        load_fleet(random_artifact, devices="tpu")


def test_on_the_command_line(
    random_artifact: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sample = Path(__file__).parents[2] / "compiler" / "data" / "sample.flac"
    line = ["run", str(random_artifact), str(sample), str(tmp_path / "missing.wav")]
    line += ["--language", "en", "--temperature", "0", "--sample-len", "5", "--device"]
    assert main([*line, "cpu,cpu"]) == 3
    out, err = capfd.readouterr()
    assert out.strip()
    assert "missing.wav" in err
    assert main([*line[:3], "--device", "all"]) == 1
    assert "holds no gpu target" in capfd.readouterr().err
