"""Hearing ahead: the same in the same order, by other threads, and nobody left behind."""

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mwc.runtime import hear_ahead
from mwc.runtime.errors import AudioError, Cancelled
from mwc.runtime.hear_ahead import HearAhead
from mwc.runtime.stop import Stop

LONG = 20.0
"""Seconds after which a thread that should have been told something gives up."""


def never() -> bool:
    return False


def hear(audio: str, stop: Stop) -> str:
    """Hears a file, unless it is called bad."""
    if audio.startswith("bad"):
        raise AudioError(audio)
    return audio.upper()


def hearer(audio: Any, stop: Stop) -> int:
    """Gives the thread that hears a file."""
    return threading.get_ident()


@pytest.mark.parametrize("n_ahead", [0, 1, 4, 50])
def test_what_was_heard_comes_in_order_with_errors_in_their_place(n_ahead: int) -> None:
    names = [f"bad {i}" if i % 5 == 3 else f"good {i}" for i in range(20)]
    found = list(HearAhead(names, hear, n_ahead, never))
    assert [str(each) for each in found] == [
        name if name.startswith("bad") else name.upper() for name in names
    ]
    assert [isinstance(each, AudioError) for each in found] == [i % 5 == 3 for i in range(20)]


@pytest.mark.parametrize("n_ahead", [0, 3])
def test_files_are_taken_by_the_caller_and_only_so_far_ahead(n_ahead: int) -> None:
    taken: list[int] = []

    def names() -> Iterator[str]:
        for i in range(12):
            taken.append(threading.get_ident())
            yield f"{i}"

    found = HearAhead(names(), hear, n_ahead, never)
    assert not taken
    for n_asked in range(1, 13):
        next(found)
        assert len(taken) == min(n_asked + n_ahead, 12)
    assert next(found, None) is None
    assert set(taken) == {threading.get_ident()}


def test_files_are_heard_beside_each_other() -> None:
    together = threading.Barrier(3)

    def meet(audio: str, stop: Stop) -> str:
        together.wait(LONG)
        return audio

    assert list(HearAhead(["a", "b", "c"], meet, 3, never)) == ["a", "b", "c"]


SAMPLES = np.zeros(3, np.float32)
FILES: list[Any] = ["a.wav", Path("a.wav"), b"RIFF"]
ARRAYS: list[Any] = [SAMPLES, (SAMPLES, 8000)]
OTHERS: list[Any] = [io.BytesIO(), bytearray(b"RIFF"), object(), ()]


@pytest.mark.parametrize("audio", FILES)
@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_files_are_heard_by_other_threads(audio: Any, kind: Callable[..., Any]) -> None:
    found = set(HearAhead(kind([audio] * 4), hearer, 2, never))
    assert threading.get_ident() not in found


@pytest.mark.parametrize("audio", ARRAYS)
@pytest.mark.parametrize(("kind", "is_here"), [(list, False), (tuple, False), (iter, True)])
def test_samples_are_where_they_are_in_a_list(
    audio: Any, kind: Callable[..., Any], is_here: bool
) -> None:
    found = set(HearAhead(kind([audio] * 4), hearer, 2, never))
    assert (threading.get_ident() in found) == is_here


@pytest.mark.parametrize("audio", OTHERS)
def test_what_may_change_is_heard_before_the_next_is_taken(audio: Any) -> None:
    taken: list[Any] = []

    def audios() -> Iterator[Any]:
        for each in ["a.wav", audio, "b.wav", "c.wav"]:
            taken.append(each)
            yield each

    found = HearAhead(audios(), hearer, 2, never)
    assert next(found) != threading.get_ident()
    assert taken == ["a.wav", audio]
    assert next(found) == threading.get_ident()
    assert taken == ["a.wav", audio]
    assert threading.get_ident() not in list(found)


def test_other_errors_are_raised_in_the_place_of_their_file() -> None:
    def fail(audio: str, stop: Stop) -> str:
        if audio == "b":
            raise ZeroDivisionError(audio)
        return audio

    found = HearAhead(["a", "b", "c"], fail, 2, never)
    assert next(found) == "a"
    with pytest.raises(ZeroDivisionError, match="b"):
        next(found)
    assert list(found) == ["c"]


def test_a_file_is_late_once_it_has_been_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hear_ahead, "MOMENT", 0.001)
    may_come = threading.Event()

    def come(audio: str, stop: Stop) -> str:
        assert may_come.wait(LONG)
        return audio

    found = HearAhead(["a", "b"], come, 1, never)
    assert not found.is_next_here
    assert found.is_next_late()
    monkeypatch.setattr(hear_ahead, "MOMENT", 2 * LONG)  # waited for no more
    assert found.is_next_late()
    may_come.set()
    assert list(found) == ["a", "b"]
    assert not found.is_next_late()
    assert not found.is_next_here


@pytest.mark.parametrize("n_ahead", [0, 2])
def test_what_the_caller_hears_is_never_late(n_ahead: int) -> None:
    found = HearAhead(iter([SAMPLES, SAMPLES]), hearer, n_ahead, never)
    assert not found.is_next_late()
    assert found.is_next_here
    assert list(found) == [threading.get_ident()] * 2
    assert not found.is_next_here


class Waiting:
    """Hears the first file at once and waits in all others until it is told to stop."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.told = threading.Semaphore(0)
        self.waits = threading.Event()

    def hear(self, audio: str, stop: Stop) -> str:
        self.heard.append(audio)
        if audio != "0":
            self.waits.set()
            while not stop():
                threading.Event().wait(0.001)
            self.told.release()
        return audio


NAMES = [str(i) for i in range(9)]


def test_a_file_that_is_waited_for_is_left_when_the_caller_wants_to_stop() -> None:
    waiting = Waiting()
    with HearAhead(NAMES, waiting.hear, 1, waiting.waits.is_set) as found:
        assert next(found) == "0"
        with pytest.raises(Cancelled):
            next(found)
    assert waiting.told.acquire(timeout=LONG)
    assert waiting.heard == ["0", "1"]


def test_closing_it_waits_for_nothing_and_ends_what_is_heard() -> None:
    waiting = Waiting()
    found = HearAhead(NAMES, waiting.hear, 3, never)
    assert next(found) == "0"
    assert waiting.waits.wait(LONG)
    found.close()
    assert waiting.told.acquire(timeout=LONG)
    assert set(waiting.heard) <= {"0", "1", "2", "3"}
