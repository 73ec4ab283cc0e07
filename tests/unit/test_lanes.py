"""Thousands of files through one engine over a fake device: they arrive, fail and are cancelled.

Nothing is lost, nothing waits for ever, results come in order, and each is the one its file gets
by itself.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from fake_decoder import FakeDecoder, scripted
from recordings import SPEC, T, hear, said
from said import outcome

from mwc.runtime.completed import in_order
from mwc.runtime.decoder import (
    ENCODED_TOGETHER,
    Choice,
    Float32,
    PrefillResult,
    PrefillRow,
    StepBatch,
)
from mwc.runtime.engine import Engine
from mwc.runtime.errors import Cancelled
from mwc.runtime.many import transcribe_together
from mwc.runtime.options import make_options
from mwc.runtime.progress import silent
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcript import Transcript

OPTIONS = {"language": "en", "temperature": 0.0}


class Device(FakeDecoder):
    """Insists that a row that has begun is in every call until it ends; counts what it is given.

    Rows whose prompt has just run sit out the rest of that round.
    """

    def __init__(self) -> None:
        super().__init__(SPEC, scripted(SPEC, said))
        self.active: set[int] = set()
        self.joining: set[int] = set()
        self.most_encoded = self.most_active = 0

    def encode(self, log_mel: Float32, *rest: Any) -> None:
        self.most_encoded = max(self.most_encoded, len(log_mel))
        super().encode(log_mel, *rest)

    def prefill(self, rows: Sequence[PrefillRow], *rest: Any) -> PrefillResult:
        result = super().prefill(rows, *rest)
        started = [row.row for row in rows]
        assert not self.active & set(started)
        self.joining = {r for r, t in zip(started, result.tokens, strict=True) if t != T.eot}
        self.active |= self.joining
        self.most_active = max(self.most_active, len(self.active))
        return result

    def steps(self, batch: StepBatch, suppress: Float32) -> Choice:
        rows = batch.rows.tolist()
        assert set(rows) <= self.active
        waiting = self.active - set(rows) - self.joining
        self.joining = set()
        assert not waiting, f"rows {waiting} were left out"
        ahead = super().steps(batch, suppress)
        ended = (ahead.candidates == T.eot).any(axis=1)
        self.active -= {row for row, end in zip(rows, ended, strict=True) if end}
        return ahead


def together(
    device: Device,
    tokenizer: Tokenizer,
    keys: Iterator[int] | Sequence[int],
    n_lanes: int,
    stop: Any = lambda: False,
) -> Iterator[object]:
    options = make_options(**OPTIONS, batch_size=n_lanes)
    audios: Any = keys
    completed = transcribe_together(
        Engine(device, tokenizer), options, audios, hear, progress=silent, stop=stop
    )
    for found in in_order(completed):
        yield outcome(found)


@pytest.fixture(scope="module")
def alone(tokenizer: Tokenizer) -> list[object]:
    """What each recording gives by itself."""
    return [next(together(Device(), tokenizer, [key], 2)) for key in range(N_RECORDINGS)]


N_RECORDINGS = 80
N_FILES = 2400


def test_the_recordings_are_of_all_kinds(alone: list[object]) -> None:
    errors = [each for each in alone if isinstance(each, str)]
    texts = {each.text for each in alone if isinstance(each, Transcript)}
    assert len(texts) > N_RECORDINGS / 2
    assert any("opened" in error for error in errors)
    assert any("less audio" in error for error in errors)


@pytest.mark.parametrize("n_lanes", [3, 8, 32])
def test_all_that_arrive_leave_in_order(
    tokenizer: Tokenizer, alone: list[object], n_lanes: int
) -> None:
    rng = np.random.default_rng(n_lanes)
    keys = rng.integers(0, N_RECORDINGS, N_FILES // 3).tolist()
    opened = 0

    def arriving() -> Iterator[int]:
        nonlocal opened
        for key in keys:
            opened += 1
            yield key

    device = Device()
    found = []
    for result in together(device, tokenizer, arriving(), n_lanes):
        # A long file may hold up results, but not more than it has windows for.
        assert opened - len(found) <= 40 * n_lanes
        found.append(result)
    assert found == [alone[key] for key in keys]
    assert not device.active
    assert device.most_active == n_lanes
    assert n_lanes / 2 < device.most_encoded <= n_lanes or device.most_encoded == ENCODED_TOGETHER


def test_cancelled_at_any_time_it_gives_what_was_done_and_frees_all(
    tokenizer: Tokenizer, alone: list[object]
) -> None:
    rng = np.random.default_rng(0)
    device = Device()
    n_cancelled = 0
    for _ in range(60):
        keys = rng.integers(0, N_RECORDINGS, 20).tolist()
        calls_left = int(rng.integers(1, 120))

        def stop() -> bool:
            nonlocal calls_left
            calls_left -= 1
            return calls_left < 0

        found = []
        try:
            for result in together(device, tokenizer, keys, int(rng.integers(2, 10)), stop):
                found.append(result)
        except Cancelled:
            n_cancelled += 1
            device.active.clear()
        else:
            assert len(found) == len(keys)
        assert found == [alone[key] for key in keys[: len(found)]]
    assert 20 < n_cancelled < 60
