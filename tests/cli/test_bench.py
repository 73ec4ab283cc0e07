"""`mwc bench`: every entry point is timed; bad input is refused."""

import json
from pathlib import Path

import pytest
from stand_ins import BENCH_REPORT as REPORT

from mwc.cli.bench import format_report
from mwc.cli.main import main
from mwc.runtime.bench import bench
from mwc.runtime.bench_cases import ENCODE, LOG_MEL, PREFILL, VAD, drafted_name, step_name
from mwc.runtime.progress import ProgressEvent

Captured = pytest.CaptureFixture[str]


def test_for_people() -> None:
    text = "\n".join(format_report(REPORT))
    assert "at most 200 GFLOP/s in float32 and 40.0 GB/s from memory" in text
    assert "transcribe  talk.wav, 10.0 s: 0.500 s, 20.0 times real time, 40 tokens (80 a" in text
    assert "floor 0.100 s, 100 times real time; ratio 5.0" in text
    rows = {line[:32].strip(): line[32:].split() for line in text.splitlines()}
    assert rows[ENCODE] == ["100.000", "ms", "120.000", "ms", "50.000", "ms", "2.0"]
    assert rows["step, 8 rows"][-2:] == ["2.0", "2000"]
    assert "load        0.25 s, floor 0.005 s; ratio 50" in text
    assert "            artifact 0.010, device 0.150, graphs 0.090" in text
    assert "floor 60 weights + 40 caches; ratio 3.0" in text
    assert rows[VAD] == ["20.000", "ms", "21.000", "ms"]


def test_as_json() -> None:
    data = json.loads(json.dumps(REPORT.to_json()))
    assert data["stages"][1]["ratio"] == 2.0
    assert data["stages"][1]["tokens_per_second"] == 2000.0
    assert data["stages"][2]["ratio"] is None
    assert data["clip"]["real_time_factor"] == 20.0
    assert data["load_ratio"] == 50.0
    assert data["memory"]["ratio"] == 3.0


def test_every_entry_point_of_an_artifact(random_artifact: Path, capsys: Captured) -> None:
    assert main(["bench", str(random_artifact), "--rounds", "1", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    stages = {stage["name"]: stage for stage in data["stages"]}
    drafted = [drafted_name(1), drafted_name(8)]
    steps = [step_name(1), step_name(8), *drafted]
    assert list(stages) == [LOG_MEL, VAD, ENCODE, PREFILL, *steps]
    for name, stage in stages.items():
        assert 0 < stage["seconds"] <= stage["p95"]
        assert stage["runs"] >= 10
        if name not in drafted:
            assert stage["ratio"] == pytest.approx(stage["seconds"] / stage["floor"])
    assert data["clip"]["duration"] == pytest.approx(10.6, abs=0.1)
    assert data["clip"]["windows"] == 1
    assert data["memory"]["peak"] >= data["memory"]["private"] > 0
    assert data["memory"]["peak"] > data["memory"]["weights"] > 0 < data["memory"]["caches"]
    assert data["load_ratio"] > 1
    load = data["load_stages"]
    assert list(load) == ["artifact", "device", "weights", "graphs", "caches", "tokenizer"]
    assert 0 < load["graphs"] < sum(load.values()) <= data["load_seconds"]


def test_progress_ends(random_artifact: Path, sample_clip: Path) -> None:
    events: list[ProgressEvent] = []
    report = bench(random_artifact, sample_clip, threads=None, rounds=2, progress=events.append)
    assert report.clip.runs == 2
    assert [event.done for event in events] == list(range(len(events)))
    assert all(event.total == len(events) for event in events)


@pytest.fixture
def sample_clip() -> Path:
    """The clip that comes with mwc."""
    import mwc.compiler

    return Path(mwc.compiler.__file__).parent / "data" / "sample.flac"


def test_refusals(random_artifact: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["bench", str(random_artifact), "--rounds", "0"]) == 2
    assert "mwc: --rounds is at least 1, not 0" in capsys.readouterr().err
    assert main(["bench", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err
    assert main(["bench", str(random_artifact), str(tmp_path / "none.wav")]) == 1
    assert "none.wav does not exist" in capsys.readouterr().err
