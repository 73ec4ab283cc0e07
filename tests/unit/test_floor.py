"""The least work of the entry points: by hand, and against an independent calculation."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mwc.runtime.floor import (
    Rates,
    Work,
    decode_work,
    encode_work,
    int8_speedup,
    log_mel_work,
    measure_rates,
)
from mwc.runtime.spec import ModelSpec

SMALL = ModelSpec(
    n_mels=80, n_audio_ctx=1500, n_audio_state=64, n_audio_head=1, n_audio_layer=1,
    n_audio_mlp=256, n_vocab=1000, n_text_ctx=448, n_text_state=64, n_text_head=1,
    n_text_layer=1, n_text_mlp=256,
)  # fmt: skip


def test_a_step_by_hand() -> None:
    one = decode_work(SMALL, 1, 2, rows=1, new=1, past=9)
    products = 2 * (6 * 64 * 64 + 2 * 64 * 256) + 2 * 64 * 1000
    attention = 4 * 64 * (10 + 1500)
    assert one.operations == products + attention
    attention_weights = 2 * (4 * 64 * 64 + 3 * 64) - (2 * 64 * 64 + 64)
    feed_forward = 2 * 64 * 256 + 256 + 64
    norms = 3 * 2 * 64 + 2 * 64
    weights = (
        attention_weights + feed_forward + norms + 1000 * 64 + 2 * 64
    )  # two rows are looked up
    assert one.bytes == weights + 2 * 2 * 64 * (10 + 1500)


def test_a_step_need_not_read_all_of_the_lm_head() -> None:
    whole = decode_work(SMALL, 1, 2, rows=1, new=1)
    half = decode_work(SMALL, 1, 2, rows=1, new=1, head_item=0.5)
    assert whole.bytes - half.bytes == 0.5 * 1000 * 64
    assert whole.operations == half.operations


def test_rows_share_the_weights() -> None:
    one, eight = (decode_work(SMALL, 4, 4, rows=n, new=1, past=99) for n in (1, 8))
    assert eight.operations == 8 * one.operations
    caches = 4 * 2 * 64 * 1600
    assert eight.bytes - one.bytes == 7 * (caches + 4 * 64)


def test_a_window_by_hand() -> None:
    t, d = 1500, 64
    convolutions = 2 * (2 * t * 3 * 80 * d + t * 3 * d * d)
    layer = 2 * (t * (4 * d * d + 2 * d * 256) + 2 * t * t * d)
    cross = 2 * t * 2 * d * d
    assert encode_work(SMALL, 4, 4).operations == convolutions + layer + cross


def test_time_is_the_longer_of_arithmetic_and_memory() -> None:
    rates = Rates(operations=100.0, bandwidth=10.0)
    assert rates.seconds(Work(300, 20)) == 3.0
    assert rates.seconds(Work(300, 50)) == 5.0
    assert rates.seconds(Work(300, 20), speedup=4) == 2.0
    assert Work(1, 2) + Work(3, 4) == Work(4, 6)


def test_this_machine_has_rates() -> None:
    rates = measure_rates(1)
    assert 0 < rates.operations < math.inf
    assert 0 < rates.bandwidth < math.inf
    assert int8_speedup() in (1.0, 8 / 3, 4.0)


@pytest.fixture(scope="module")
def roofline(audio_dir: Path) -> ModuleType:
    """Another calculation of the same floor, kept beside the speech corpus."""
    path = audio_dir.parent / "tools" / "roofline.py"
    if not path.is_file():
        pytest.skip(f"no {path} to compare with")
    spec = importlib.util.spec_from_file_location("roofline", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["roofline"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("item", "cache"), [(4, 4), (2, 2), (1, 2)])
@pytest.mark.parametrize("size", ["tiny", "base", "large-v3", "distil-large-v3"])
def test_same_work_as_the_other_calculation(
    roofline: ModuleType, size: str, item: int, cache: int
) -> None:
    m, _ = roofline.SIZES[size]
    model = ModelSpec(
        n_mels=m.mels, n_audio_ctx=m.src, n_audio_state=m.d, n_audio_head=m.d // 64,
        n_audio_layer=m.enc, n_audio_mlp=m.ffe, n_vocab=m.vocab, n_text_ctx=m.tgt,
        n_text_state=m.d, n_text_head=m.d // 64, n_text_layer=m.dec, n_text_mlp=m.ffd,
    )  # fmt: skip
    phases = roofline.encode(m, 1, item, cache)
    mel = phases.pop("log-mel")
    pairs = [
        (mel, log_mel_work(model, max(2, item))),
        (roofline.total(phases), encode_work(model, item, cache)),
    ]
    for rows, new, past in ((1, 1, 100), (8, 1, 30), (2, 40, 0)):
        theirs = roofline.total(roofline.decode(m, rows, item, cache, new, past))
        pairs.append((theirs, decode_work(model, item, cache, rows=rows, new=new, past=past)))
    for theirs, ours in pairs:
        assert ours.operations == pytest.approx(theirs.flops, rel=1e-12)
        assert ours.bytes == pytest.approx(theirs.bytes, rel=1e-12)
