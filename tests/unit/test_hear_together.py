"""Files heard together: each thread gets what its own samples give, and nothing else is copied."""

import threading
from typing import Any

import numpy as np
import pytest
from fake_decoder import FakeDecoder, fake_spec, noise

from mwc.runtime.decoder import PIECE_SAMPLES, Float32, Int32
from mwc.runtime.hear_together import HearTogether
from mwc.runtime.turns import Turns

SPEC = fake_spec()
WAIT = 20.0


class Recorder(FakeDecoder):
    """What it gives depends on the samples; it keeps what it is given."""

    def __init__(self, together: int) -> None:
        super().__init__(SPEC, noise(SPEC), heard_together=together)
        self.given: list[Float32] = []
        self.sizes: list[Any] = []

    def log_mel(self, samples: Float32) -> Float32:
        self.given.append(samples)
        self.sizes.append(len(samples))
        shape = (len(samples), 1000, self.spec.model.n_mels)
        return np.broadcast_to(samples[:, :1, None], shape).astype(np.float32)

    def vad(self, samples: Float32, states: Float32, counts: Int32) -> tuple[Float32, Float32]:
        self.given.append(samples)
        self.sizes.append(counts.tolist())
        _, counted = super().vad(samples, states, counts)
        return samples[:, -1].copy(), counted


def pieces(count: int, value: float) -> Float32:
    """Samples of some pieces, each of them `value` and its number."""
    values = value + np.arange(count, dtype=np.float32) / 100
    return np.repeat(values[:, None], PIECE_SAMPLES, axis=1)


def frames(count: int, value: float) -> Float32:
    values = value + np.arange(count, dtype=np.float32) / 1000
    return np.repeat(values[:, None], 576, axis=1)


def in_one_call(hearing: HearTogether, turns: Turns, name: str, asked: list[Any]) -> list[Any]:
    """Ask in as many threads; the turn is let go once all of them stand in the queue, in order."""
    found: list[Any] = [None] * len(asked)
    queue = getattr(hearing, f"_{name}")._queue

    def ask(k: int) -> None:
        found[k] = getattr(hearing, name)(*asked[k])

    threads = []
    with turns:
        for k in range(len(asked)):
            threads.append(threading.Thread(target=ask, args=(k,), daemon=True))
            threads[-1].start()
            while len(queue) <= k:
                assert threads[-1].is_alive()
                threads[-1].join(0.001)
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()
    return found


@pytest.mark.parametrize("together", [1, 8])
def test_what_a_file_asks_alone_goes_through_as_it_is(together: int) -> None:
    decoder = Recorder(together)
    hearing = HearTogether(decoder, Turns())
    samples, others = pieces(3, 1.0), frames(7, 2.0)
    mel = hearing.log_mel(samples)
    assert decoder.given[0] is samples
    assert np.array_equal(mel[:, 5, 0], samples[:, 0])
    probabilities, state = hearing.vad(others, np.ones((2, 128), np.float32))
    assert decoder.given[1] is others
    assert np.array_equal(probabilities, others[:, 0])
    assert np.array_equal(state, np.full((2, 128), 8.0, np.float32))


def test_pieces_of_files_share_a_call_and_nothing_else() -> None:
    decoder, turns = Recorder(8), Turns()
    hearing = HearTogether(decoder, turns)
    for sizes in ([3, 1, 2], [1, 3], [2, 2, 2, 2]):
        asked = [(pieces(size, float(k)),) for k, size in enumerate(sizes)]
        found = in_one_call(hearing, turns, "log_mel", asked)
        assert decoder.sizes.pop() == sum(sizes)
        assert not decoder.sizes
        for (samples,), mel in zip(asked, found, strict=True):
            assert mel.shape == (len(samples), 1000, SPEC.model.n_mels)
            assert np.array_equal(mel[:, 999, 1], samples[:, 0])
            assert mel.base is None


def test_frames_of_files_are_sequences_of_a_call() -> None:
    decoder, turns = Recorder(8), Turns()
    hearing = HearTogether(decoder, turns)
    for sizes in ([512, 1, 430], [3, 2], [1, 1, 1, 9]):
        states = [np.full((2, 128), 10.0 * k, np.float32) for k in range(len(sizes))]
        samples = [frames(size, float(k)) for k, size in enumerate(sizes)]
        asked = list(zip(samples, states, strict=True))
        found = in_one_call(hearing, turns, "vad", asked)
        assert decoder.sizes.pop() == sizes
        assert not decoder.sizes
        for (samples_k, state), (probabilities, after) in zip(asked, found, strict=True):
            assert np.array_equal(probabilities, samples_k[:, 0])
            assert np.array_equal(after, state + len(samples_k))


def test_no_call_has_more_files_than_are_heard_together() -> None:
    decoder, turns = Recorder(2), Turns()
    hearing = HearTogether(decoder, turns)
    asked = [(pieces(1, float(k)),) for k in range(5)]
    found = in_one_call(hearing, turns, "log_mel", asked)
    assert decoder.sizes == [2, 2, 1]
    assert [mel[0, 0, 0] for mel in found] == [0, 1, 2, 3, 4]
