"""What slots take, by hand, and the refusal of what does not fit."""

import pytest
from fake_decoder import fake_spec

from mwc.runtime.errors import MemoryShortage
from mwc.runtime.slot_memory import cache_bytes, check_memory, work_bytes
from mwc.runtime.spec import GraphSignature, TensorSpec

KEYS = TensorSpec("cross_k", "bfloat16", (4, "windows", 6, 100), mutable=True)
ROWS = TensorSpec("self_k", "float32", (4, "row_slots", 10), mutable=True)
TOKENS = TensorSpec("tokens", "int32", ("batch",))
GRAPHS = [
    GraphSignature("encode", (KEYS,), (), ()),
    GraphSignature("step", (TOKENS, KEYS, ROWS), (), ()),
]


def test_each_cache_counts_once() -> None:
    sizes = {"windows": 3, "row_slots": 5}
    assert cache_bytes(GRAPHS, sizes) == 2 * 4 * 3 * 6 * 100 + 4 * 4 * 5 * 10


def test_work_grows_with_what_is_encoded_together() -> None:
    model = fake_spec().model
    assert work_bytes(model, 8) == 8 * work_bytes(model, 1) == 8 * 1500 * 64 * 10 * 4


def test_what_fits_is_let_be() -> None:
    for needed, free in ((10, 10), (0, 0), (-5, 0), (1 << 60, None)):
        check_memory(needed, free, {"windows": 1, "row_slots": 1}, "cpu-host")


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(MemoryShortage) as caught:
        check_memory(64 << 30, 16 << 30, {"windows": 128, "row_slots": 640}, "cuda-sm_90a")
    assert str(caught.value) == (
        "128 windows and 640 rows at once need 64.0 GiB more memory on cuda-sm_90a, where 16.0 GiB "
        "is free; lower batch_size, beam_size or best_of (about 32 of the windows fit), or free "
        "memory."
    )


def test_where_no_window_fits_fewer_are_no_remedy() -> None:
    with pytest.raises(MemoryShortage) as caught:
        check_memory(4 << 30, 1 << 30, {"windows": 1, "row_slots": 1}, "cpu-host")
    assert str(caught.value) == (
        "1 window and 1 row at once need 4.0 GiB more memory on cpu-host, where 1.0 GiB is free; "
        "free memory: not even one window fits."
    )
