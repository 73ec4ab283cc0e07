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
    speech_work,
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


SIZES = {
    "tiny": (80, 384, 4, 4, 51865),
    "base": (80, 512, 6, 6, 51865),
    "large-v3": (128, 1280, 32, 32, 51866),
    "distil-large-v3": (128, 1280, 32, 2, 51866),
}
"""Mels, width, layers of the encoder and of the decoder, tokens."""

PASSES = ((1, 1, 100), (8, 1, 30), (2, 40, 0))
"""Passes of the decoder: rows, new tokens of each, tokens before these."""

# Another calculation of the same floor: log-mel, encoding, then PASSES.
OPERATIONS = {
    "tiny": (31526568.569324177, 40476672000, 66183936, 526030848, 2148226560),
    "base": (31526568.569324177, 96804864000, 116823040, 927703040, 5124147200),
    "large-v3": (31688568.569324177, 2588344320000, 1863091200, 14812979200, 137635563520),
    "distil-large-v3": (31688568.569324177, 2293432320000, 240921600, 1921638400, 8851179520),
}
# By the bytes of a weight and of an entry of a cache.
BYTES = {
    ("tiny", 4, 4): (1920000, 56950272, 132472320, 263313408, 150827520),
    ("tiny", 2, 2): (1440000, 28475136, 66236160, 131656704, 75413760),
    ("tiny", 1, 2): (1440000, 19085568, 38036352, 103454208, 47168640),
    ("base", 4, 4): (1920000, 132781568, 233850880, 495525888, 270440448),
    ("base", 2, 2): (1440000, 66390784, 116925440, 247762944, 135220224),
    ("base", 1, 2): (1440000, 42651392, 68299264, 199133184, 86533632),
    ("large-v3", 4, 4): (2496000, 3460526080, 3728824320, 7217669120, 4214067200),
    ("large-v3", 2, 2): (1728000, 1730263040, 1864412160, 3608834560, 2107033600),
    ("large-v3", 1, 2): (1728000, 988395520, 1063360000, 2807773440, 1305830400),
    ("distil-large-v3", 4, 4): (2496000, 2606356480, 482027520, 700113920, 512921600),
    ("distil-large-v3", 2, 2): (1728000, 1303178240, 241013760, 350056960, 256460800),
    ("distil-large-v3", 1, 2): (1728000, 659653120, 128704000, 237738240, 144000000),
}


@pytest.mark.parametrize(("size", "item", "cache"), BYTES)
def test_same_work_as_the_other_calculation(size: str, item: int, cache: int) -> None:
    mels, width, encoder_layers, decoder_layers, tokens = SIZES[size]
    model = ModelSpec(
        n_mels=mels, n_audio_ctx=1500, n_audio_state=width, n_audio_head=width // 64,
        n_audio_layer=encoder_layers, n_audio_mlp=4 * width, n_vocab=tokens, n_text_ctx=448,
        n_text_state=width, n_text_head=width // 64, n_text_layer=decoder_layers,
        n_text_mlp=4 * width,
    )  # fmt: skip
    ours = [log_mel_work(model, max(2, item)), encode_work(model, item, cache)]
    for rows, new, past in PASSES:
        ours.append(decode_work(model, item, cache, rows=rows, new=new, past=past))
    assert [work.operations for work in ours] == pytest.approx(OPERATIONS[size], rel=1e-12)
    assert [work.bytes for work in ours] == pytest.approx(BYTES[size, item, cache], rel=1e-12)


def test_speech_detection_by_counting() -> None:
    """Column by column and tap by tap; a multiply-add is two operations."""
    columns, weights, multiplied = 4, 256, 0
    spectrum = columns * (256 + 2.5 * 256 * 8 + 4 * 129)  # a window, an FFT, bins' magnitudes
    for n_in, n_out, stride in ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1)):
        starts = range(-1, columns - 1, stride)
        taps = [start + i for start in starts for i in range(3) if 0 <= start + i < columns]
        multiplied += len(taps) * n_in * n_out
        weights += 3 * n_in * n_out
        columns = len(starts)
    assert columns == 1
    multiplied += 512 * (128 + 128) + 128
    weights += 512 * (128 + 128) + 128
    assert speech_work(10).operations == 10 * (spectrum + 2 * multiplied)
    assert speech_work(10).bytes == 4 * weights + 10 * 512 * 2


@pytest.fixture(scope="module")
def roofline(audio_dir: Path) -> ModuleType:
    """The other calculation itself, where it is kept beside the speech corpus."""
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


@pytest.mark.parametrize(("size", "item", "cache"), BYTES)
def test_the_numbers_are_those_of_the_other_calculation(
    roofline: ModuleType, size: str, item: int, cache: int
) -> None:
    m, _ = roofline.SIZES[size]
    assert (m.mels, m.d, m.enc, m.dec, m.vocab) == SIZES[size]
    phases = roofline.encode(m, 1, item, cache)
    theirs = [phases.pop("log-mel"), roofline.total(phases)]
    for rows, new, past in PASSES:
        theirs.append(roofline.total(roofline.decode(m, rows, item, cache, new, past)))
    assert [work.flops for work in theirs] == pytest.approx(OPERATIONS[size], rel=1e-12)
    assert [work.bytes for work in theirs] == pytest.approx(BYTES[size, item, cache], rel=1e-12)
