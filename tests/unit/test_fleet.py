"""Several devices under one front: nothing lost, in order, whoever fails or stops on the way."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from said import outcome
from small_artifact import write_small_artifact

from mwc.runtime import fleet as fleet_module
from mwc.runtime import platform
from mwc.runtime.errors import (
    AudioError,
    BusyError,
    Cancelled,
    DeviceError,
    MemoryShortage,
    MwcError,
    OptionError,
    TargetError,
)
from mwc.runtime.fleet import Fleet, load_fleet
from mwc.runtime.fleet_worker import Worker
from mwc.runtime.options import TranscribeOptions, make_options
from mwc.runtime.progress import ProgressEvent
from mwc.runtime.worker import serve

Said = Callable[[Any], Any]

NAMES = [field.name for field in fields(TranscribeOptions)]


class Gone(BaseException):
    """Ends a worker the way a crash does."""


class FakeModel:
    """Says `said(audio)` of each file, after holding up to `room` of them as a batch does.

    Of those it holds the one that came first is done next, or with `next` -1 the last.
    """

    def __init__(self, said: Said, room: int = 1, seconds: float = 0.0, next: int = 0) -> None:
        self.target = "fake"
        self.said, self.room, self.seconds, self.next = said, room, seconds, next
        self.heard: list[Any] = []

    def transcribe_as_completed(
        self, audios, *, progress, cancel, **options
    ) -> Iterator[tuple[int, Any]]:
        if options.get("language") == "xx":
            raise OptionError("language is 'xx'.")
        waiting: list[tuple[int, Any]] = []
        for number, audio in enumerate(audios):
            self.heard.append(audio)
            waiting.append((number, audio))
            if len(waiting) == self.room:
                number, first = waiting.pop(self.next)
                yield number, self._answer(first, progress, cancel)
        for number, audio in waiting:
            yield number, self._answer(audio, progress, cancel)

    def _answer(self, audio: Any, progress: Any, cancel: Any) -> Any:
        if cancel.is_set():
            raise Cancelled("stopped")
        time.sleep(self.seconds)
        progress(ProgressEvent("read audio", 1.0, 1.0, "seconds"))
        progress(ProgressEvent("transcribe", float(len(self.heard)), 99.0, "seconds"))
        return self.said(audio)


def fleet_of(*models: FakeModel | MwcError, leaves_out: bool = False) -> Fleet:
    """A fleet whose workers are threads."""
    workers = []
    for k, model in enumerate(models):
        ours, theirs = Pipe()

        def work(theirs: Any = theirs, model: Any = model) -> None:
            def open_model() -> FakeModel:
                if isinstance(model, MwcError):
                    raise model
                return model

            try:
                serve(theirs, open_model)
            except (Gone, OSError):
                pass
            finally:
                theirs.close()

        threading.Thread(target=work, daemon=True).start()
        workers.append(Worker(f"gpu:{k}", ours))
    return Fleet(workers, leaves_out=leaves_out)


def shout(audio: Any) -> Any:
    return AudioError(f"{audio} is empty") if audio.startswith("empty") else audio.upper()


def meeting(n: int) -> list[Said]:
    """`shout` of so many devices, whose first answers wait for one another."""
    all_at_work = threading.Barrier(n, timeout=60)

    def of_one() -> Said:
        still_to_meet = [True]

        def said(audio: Any) -> Any:
            if still_to_meet:
                still_to_meet.pop()
                all_at_work.wait()
            return shout(audio)

        return said

    return [of_one() for _ in range(n)]


def outcomes(found: Iterator[Any]) -> list[Any]:
    return [outcome(each) for each in found]


@pytest.mark.parametrize("seed", range(20))
def test_thousands_of_files_over_devices_that_fail(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"{rng.choice(['empty', 'a', 'b'])}-{i}" for i in range(200)]
    n_devices = int(rng.integers(2, 6))
    # All devices but the first are lost after some files.
    left = [10_000, *rng.integers(0, 60, n_devices - 1).tolist()]

    def dying(k: int) -> Said:
        def said(audio: Any) -> Any:
            left[k] -= 1
            if left[k] < 0:
                raise Gone if rng.random() < 0.5 else DeviceError("the bus is off")
            return shout(audio)

        return said

    rooms = rng.integers(1, 5, n_devices).tolist()
    next = -int(seed % 2)
    with fleet_of(*(FakeModel(dying(k), n, next=next) for k, n in enumerate(rooms))) as fleet:
        found = outcomes(fleet.transcribe_many(iter(names), skip_errors=True, language="en"))
        expected = [str(shout(name)) for name in names]
        # What two devices were lost with is given up; all else is as if none had been lost.
        given_up = [
            each.startswith(f"{name} was under way on 2 devices")
            for name, each in zip(names, found, strict=True)
        ]
        assert sum(given_up) <= 4 * n_devices
        assert all(f == e or lost for f, e, lost in zip(found, expected, given_up, strict=True))
        again = outcomes(fleet.transcribe_many(names[:20], skip_errors=True))
        assert len(again) == 20


def test_every_device_takes_part() -> None:
    models = [FakeModel(said) for said in meeting(3)]
    with fleet_of(*models) as fleet:
        assert fleet.targets == ("fake",) * 3
        names = [f"a{i}" for i in range(60)]
        assert list(fleet.transcribe_many(names)) == [name.upper() for name in names]
    assert sorted(name for model in models for name in model.heard) == sorted(names)


def test_files_are_taken_as_devices_have_room() -> None:
    taken = 0

    def files() -> Iterator[str]:
        nonlocal taken
        for i in range(50):
            taken += 1
            yield f"a{i}"

    with fleet_of(FakeModel(shout, room=2)) as fleet:
        given = 0
        for given, _ in enumerate(fleet.transcribe_many(files()), 1):
            assert taken <= given + 2
        assert given == 50


def test_a_file_that_ends_devices_is_given_up_and_the_others_go_on() -> None:
    def said(audio: str) -> str:
        if audio == "bad":
            raise Gone
        return audio.upper()

    with fleet_of(*(FakeModel(said) for _ in range(3))) as fleet:
        found = outcomes(fleet.transcribe_many(["a", "bad", "b", "c"], skip_errors=True))
        assert found[0] == "A"
        assert found[1].startswith("bad was under way on 2 devices when they failed, the last time")
        assert "ended unexpectedly." in found[1]
        assert found[2:] == ["B", "C"]


def test_the_last_device_that_fails_is_an_error() -> None:
    def said(audio: str) -> str:
        raise DeviceError("gpu failed in steps.")

    with fleet_of(FakeModel(said)) as fleet:
        with pytest.raises(DeviceError, match="gpu failed in steps"):
            list(fleet.transcribe_many(["a", "b"]))
        with pytest.raises(DeviceError, match="no device is left"):
            fleet.transcribe_many(["a"])


def test_an_error_of_a_file_is_raised_in_its_place() -> None:
    with fleet_of(FakeModel(shout), FakeModel(shout)) as fleet:
        found = fleet.transcribe_many(["a", "empty-1", "b"])
        assert next(found) == "A"
        with pytest.raises(AudioError, match="empty-1 is empty"):
            next(found)
        assert list(fleet.transcribe_many(["c"])) == ["C"]


def test_an_error_of_all_files_ends_it() -> None:
    with fleet_of(FakeModel(shout), FakeModel(shout)) as fleet:
        with pytest.raises(OptionError, match="language is 'xx'"):
            list(fleet.transcribe_many(["a"] * 9, language="xx"))
        with pytest.raises(OptionError, match="beam_size"):
            fleet.transcribe_many(["a"], beam_size=0)
        assert list(fleet.transcribe_many(["c"])) == ["C"]


def test_cancelled_or_closed_it_is_free_again() -> None:
    with fleet_of(*(FakeModel(shout, room=2, seconds=0.005) for _ in range(2))) as fleet:
        cancel = threading.Event()
        found = fleet.transcribe_many((f"a{i}" for i in range(10**6)), cancel=cancel)
        assert next(found) == "A0"
        cancel.set()
        with pytest.raises(Cancelled):
            list(found)
        closed: Any = fleet.transcribe_many(f"a{i}" for i in range(10**6))
        next(closed)
        closed.close()
        assert list(fleet.transcribe_many(["c", "d"])) == ["C", "D"]


def test_one_run_at_a_time() -> None:
    with fleet_of(FakeModel(shout)) as fleet:
        first: Any = fleet.transcribe_many(["a", "b"])
        assert next(first) == "A"
        with pytest.raises(BusyError, match="take all of its transcripts or close"):
            next(iter(fleet.transcribe_many(["c"])))
        assert list(first) == ["B"]
        assert list(fleet.transcribe_many(["c"])) == ["C"]


def test_progress_is_of_all_devices() -> None:
    events: list[ProgressEvent] = []
    with fleet_of(*(FakeModel(said) for said in meeting(2))) as fleet:
        list(fleet.transcribe_many([f"a{i}" for i in range(20)], progress=events.append))
    assert {event.stage for event in events} == {"transcribe"}
    assert events[-1].done == 20.0
    assert events[-1].total == 198.0


def test_what_can_be_sent() -> None:
    samples = np.ones(3, np.float32)
    sent: list[Any] = [b"bytes", Path("a.wav"), (samples, 8000), io.BytesIO(b"file"), object()]
    with fleet_of(FakeModel(lambda audio: audio)) as fleet:
        found = list(fleet.transcribe_many(sent, skip_errors=True))
    assert found[:2] == [b"bytes", "a.wav"]
    got: Any = found[2]
    assert got[0].tolist() == [1, 1, 1]
    assert found[3] == b"file"
    assert str(found[4]).startswith("object is not audio; give a path, bytes")


def test_a_file_is_sent_from_its_start_or_told_to_be_unreadable() -> None:
    read, closed = io.BytesIO(b"file"), io.BytesIO(b"")
    read.read()
    closed.close()
    files: list[Any] = [read, closed, io.StringIO("a.wav"), memoryview(b"view")]
    with fleet_of(FakeModel(lambda audio: audio)) as fleet:
        found = list(fleet.transcribe_many(files, skip_errors=True))
    assert found[0] == b"file"
    assert "cannot be read: I/O operation on closed file" in str(found[1])
    assert "open as text; open it in binary mode" in str(found[2])
    assert found[3] == b"view"


def test_options_that_cannot_be_sent_as_they_are() -> None:
    given: list[Any] = []

    class Keeps(FakeModel):
        def transcribe_as_completed(self, audios, **options) -> Iterator[tuple[int, Any]]:
            given.append(make_options(**{k: v for k, v in options.items() if k in NAMES}))
            return super().transcribe_as_completed(audios, **options)

    asked: dict[str, Any] = {
        "temperature": (t for t in (0.0, 0.4)), "vad_filter": True, "languages": iter(["German"]),
        "vad_parameters": {"threshold": 0.4}, "suppress_tokens": iter([1, -1]),
    }  # fmt: skip
    with fleet_of(Keeps(shout)) as fleet:
        assert list(fleet.transcribe_many(["a"], **asked)) == ["A"]
    expected = make_options(
        temperature=(0.0, 0.4), vad_filter=True, languages=["de"],
        vad_parameters={"threshold": 0.4}, suppress_tokens="1,-1",
    )  # fmt: skip
    assert given == [expected]


def test_a_fleet_that_is_closed_under_way_says_so() -> None:
    with fleet_of(FakeModel(shout), FakeModel(shout)) as fleet:
        found = fleet.transcribe_many([f"a{i}" for i in range(9)])
        assert next(iter(found)) == "A0"
    with pytest.raises(DeviceError, match="closed while it transcribed"):
        list(found)


def test_one_file_is_no_list_of_files() -> None:
    with (
        fleet_of(FakeModel(shout)) as fleet,
        pytest.raises(AudioError, match="give a list of them"),
    ):
        fleet.transcribe_many("talk.mp3")


def test_a_model_that_does_not_load() -> None:
    with pytest.raises(TargetError, match="no such GPU"):
        fleet_of(FakeModel(shout), TargetError("no such GPU"))


def test_all_devices_are_those_with_memory() -> None:
    full = MemoryShortage("the weights do not fit")
    with fleet_of(full, FakeModel(shout), full, leaves_out=True) as fleet:
        assert fleet.targets == ("fake",)
        assert fleet.left_out == tuple(
            f"gpu:{k} is left out: the weights do not fit" for k in (0, 2)
        )
        assert list(fleet.transcribe_many(["a", "b"])) == ["A", "B"]
    with pytest.raises(MemoryShortage, match="do not fit"):
        fleet_of(full, full, leaves_out=True)
    with pytest.raises(MemoryShortage, match="do not fit"):  # it was named
        fleet_of(full, FakeModel(shout))
    with pytest.raises(TargetError):
        fleet_of(TargetError("none"), FakeModel(shout), leaves_out=True)


def too_much(audio: str) -> str:
    raise MemoryShortage(f"{audio} is too much")


def test_what_one_device_has_no_memory_for_goes_to_the_others() -> None:
    small, large = FakeModel(too_much, room=2), FakeModel(shout)
    names = [f"a{i}" for i in range(20)]
    with fleet_of(small, FakeModel(too_much), large) as fleet:
        assert list(fleet.transcribe_many(names)) == [name.upper() for name in names]
        assert small.heard  # it was asked
        small.said, n_heard = shout, len(small.heard)
        for _ in range(20):  # it is asked again in another run, which may want less
            list(fleet.transcribe_many(names))
        assert len(small.heard) > n_heard


def test_what_no_device_has_memory_for_ends_the_run() -> None:
    with fleet_of(FakeModel(too_much), FakeModel(too_much)) as fleet:
        with pytest.raises(MemoryShortage, match="is too much"):
            list(fleet.transcribe_many(["a", "b", "c"]))
        assert len(fleet.targets) == 2

    def dying(audio: str) -> str:
        raise Gone

    with (
        fleet_of(FakeModel(dying), FakeModel(too_much)) as fleet,
        pytest.raises((MemoryShortage, DeviceError)),
    ):
        list(fleet.transcribe_many(["a", "b", "c"]))


def test_each_comes_when_it_is_done_and_is_safe_when_the_rest_fails() -> None:
    def said(audio: str) -> str:
        if audio == "long":
            raise DeviceError("the bus is off")
        return audio.upper()

    names = ["long", "a", "b", "c"]
    with fleet_of(FakeModel(said, room=3, next=-1)) as fleet:
        completed = fleet.transcribe_as_completed(names)
        assert [next(completed), next(completed)] == [(2, "B"), (3, "C")]
        with pytest.raises(DeviceError, match="the bus is off"):
            next(completed)


def test_a_quota_is_shared_out_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_small_artifact(tmp_path / "out")
    asked: list[tuple[str, list[int], int | None]] = []

    def start(path: Path, device: str, cpus: list[int], threads: int | None) -> None:
        asked.append((device, cpus, threads))

    monkeypatch.setattr(fleet_module, "start_worker", start)
    monkeypatch.setattr(fleet_module, "Fleet", lambda workers, **how: workers)
    monkeypatch.setattr(fleet_module, "cpus_by_node", lambda: list(range(16)))
    monkeypatch.setattr(fleet_module, "usable_cpus", lambda: 4)
    fleet_module.load_fleet(tmp_path / "out", "cpu,cpu-host")
    assert asked == [("cpu", list(range(8)), 2), ("cpu-host", list(range(8, 16)), 2)]
    with pytest.raises(OptionError, match="names the CPU 5 times; this process may use 4 CPUs"):
        fleet_module.load_fleet(tmp_path / "out", ["cpu"] * 5)


def test_cpus_are_shared_out_by_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "_NODES", tmp_path)
    monkeypatch.setattr(platform.os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 6})
    monkeypatch.setattr(platform.control_group, "cpu_quotas", list)
    for cpu in range(8):
        (tmp_path / f"node{cpu % 2}/cpu{cpu}").mkdir(parents=True)
    assert platform.cpus_by_node() == [0, 2, 4, 6, 1, 3]
    assert fleet_module._shares(0) == []
    assert fleet_module._shares(2) == [([0, 2, 4], 3), ([6, 1, 3], 3)]
    assert fleet_module._shares(4) == [([0, 2], 2), ([4, 6], 2), ([1], 1), ([3], 1)]
    with pytest.raises(OptionError, match="names the CPU 7 times; this process may use 6 CPUs"):
        fleet_module._shares(7)


def test_devices_of_nothing(tmp_path: Path) -> None:
    write_small_artifact(tmp_path / "out")
    bad: Any
    for bad in ("", "cpu,", (), None, 7, [None]):
        with pytest.raises(OptionError, match="takes all, or at least one device"):
            load_fleet(tmp_path / "out", devices=bad)
    with pytest.raises(TargetError, match="holds no gpu target"):
        load_fleet(tmp_path / "out", devices="all")
