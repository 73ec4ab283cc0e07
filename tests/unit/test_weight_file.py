"""Weight files: what is written is what is mapped, and a file that lies is refused."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_artifact import TENSORS, reader

from mwc.runtime.errors import ArtifactError
from mwc.runtime.progress import ProgressEvent
from mwc.runtime.spec import TensorSpec
from mwc.runtime.weight_file import map_file, numpy_dtype, write_weights

Header = dict[str, Any]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    write_weights(path, [(spec, reader(array)) for spec, array in TENSORS.values()])
    return path


def specs() -> list[TensorSpec]:
    return [spec for spec, _ in TENSORS.values()]


def rewrite(path: Path, change: Callable[[Header], None]) -> None:
    """Change the header and keep the data as it is."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def test_mapped_views_are_what_was_written_aligned_and_read_only(weights: Path) -> None:
    views = map_file(weights, specs())
    assert list(views) == list(TENSORS)
    for name, (_, array) in TENSORS.items():
        np.testing.assert_array_equal(views[name], array)
        assert views[name].dtype == array.dtype
        assert views[name].ctypes.data % 64 == 0
        assert not views[name].flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            views[name][...] = 0


def test_the_safetensors_package_reads_the_same(weights: Path) -> None:
    from safetensors import safe_open

    with safe_open(weights, "numpy") as file:
        np.testing.assert_array_equal(
            file.get_tensor("encoder.conv1.weight"), TENSORS["encoder.conv1.weight"][1]
        )
        assert file.get_slice("decoder.scale").get_dtype() == "BF16"
        assert {name for name in file.keys() if not name.startswith("__pad__")} == set(TENSORS)  # noqa: SIM118


SHAPES = st.lists(st.integers(1, 9), max_size=3).map(tuple)
DTYPES = st.sampled_from(["float32", "float16", "bfloat16", "int32", "int8"])


@given(st.lists(st.tuples(DTYPES, SHAPES), max_size=6))
def test_any_tensors_round_trip(tmp_path_factory: Any, kinds: list[tuple[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    rng = np.random.default_rng(0)
    arrays = {}
    tensors = []
    for index, (dtype, shape) in enumerate(kinds):
        spec = TensorSpec(f"t{index}", dtype, shape)
        raw = rng.bytes(math.prod(shape) * numpy_dtype(dtype).itemsize)
        arrays[spec.name] = np.frombuffer(raw, numpy_dtype(dtype)).reshape(shape)
        tensors.append((spec, reader(arrays[spec.name])))
    written = write_weights(path, tensors)
    views = map_file(path, written)
    assert {name: view.tobytes() for name, view in views.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }
    shutil.rmtree(path.parent)


def test_progress_ends_at_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    events: list[ProgressEvent] = []
    write_weights(path, [(s, reader(a)) for s, a in TENSORS.values()], events.append)
    assert events[-1].done == events[-1].total == path.stat().st_size


def test_a_non_contiguous_array_is_written_in_c_order(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    spec = TensorSpec("t", "float32", (3, 2))
    write_weights(tmp_path / "w", [(spec, reader(array))])
    np.testing.assert_array_equal(map_file(tmp_path / "w", [spec])["t"], array)


@pytest.mark.parametrize(
    "array", [np.zeros((3, 2), np.float64), np.zeros((2, 3), np.float32)], ids=["dtype", "shape"]
)
def test_an_array_that_is_not_its_spec_is_refused(tmp_path: Path, array: Any) -> None:
    with pytest.raises(ValueError, match=r"weight t is .* not float32 \(3, 2\)"):
        write_weights(tmp_path / "w", [(TensorSpec("t", "float32", (3, 2)), reader(array))])


def test_a_name_twice_or_a_symbolic_size_is_refused(tmp_path: Path) -> None:
    spec = TensorSpec("t", "float32", (1,))
    with pytest.raises(ValueError, match="t is written twice"):
        write_weights(tmp_path / "w", [(spec, reader(np.zeros(1, np.float32)))] * 2)
    with pytest.raises(ValueError, match="symbolic size"):
        write_weights(tmp_path / "w", [(TensorSpec("t", "int8", ("n",)), reader(0))])


def test_no_room_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    spec, array = TENSORS["encoder.conv1.weight"]
    with pytest.raises(ArtifactError, match=r"it takes \d+ bytes and 10 are free"):
        write_weights(tmp_path / "w", [(spec, reader(array))])
    assert not (tmp_path / "w").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_fills_up_while_writing(tmp_path: Path) -> None:
    (tmp_path / "w").symlink_to("/dev/full")
    spec = TensorSpec("t", "float32", (1 << 16,))
    with pytest.raises(ArtifactError, match=r"No room left to write .*: \d+ bytes were to be"):
        write_weights(tmp_path / "w", [(spec, reader(np.zeros(1 << 16, np.float32)))])


def test_a_file_cut_short_is_refused(weights: Path) -> None:
    whole = weights.read_bytes()
    for size in (0, 7, 8, 40, len(whole) - 1):
        weights.write_bytes(whole[:size])
        with pytest.raises(ArtifactError):
            map_file(weights, specs())


def test_a_file_without_permission_is_refused(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(ArtifactError, match=r"cannot be read: Permission denied; check its perm"):
        map_file(weights, specs())


def test_a_header_longer_than_the_file_is_refused(weights: Path) -> None:
    raw = weights.read_bytes()
    weights.write_bytes((1 << 62).to_bytes(8, "little") + raw[8:])
    with pytest.raises(ArtifactError, match="not a safetensors file or was cut short"):
        map_file(weights, specs())


NAME = "encoder.conv1.weight"
LIES: dict[str, Callable[[Header], None]] = {
    "beyond the end": lambda h: h[NAME].update(data_offsets=[10**9, 10**9 + 60]),
    "before the data": lambda h: h[NAME].update(data_offsets=[-60, 0]),
    "backwards": lambda h: h[NAME].update(data_offsets=[60, 0]),
    "another length": lambda h: h[NAME].update(data_offsets=[0, 56]),
    "another shape": lambda h: h[NAME].update(shape=[5, 3]),
    "a larger shape": lambda h: h[NAME].update(shape=[3, 500]),
    "another dtype": lambda h: h[NAME].update(dtype="I32"),
    "an unknown dtype": lambda h: h[NAME].update(dtype="F8_E5M2"),
    "missing": lambda h: h.pop(NAME),
    "left over": lambda h: h.update(more={**h[NAME]}),
    "no offsets": lambda h: h[NAME].pop("data_offsets"),
    "not an object": lambda h: h.update({NAME: 3}),
    "a size without end": lambda h: h[NAME].update(shape=[math.inf]),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_header_that_lies_is_refused(weights: Path, lie: Callable[[Header], None]) -> None:
    rewrite(weights, lambda header: None)
    map_file(weights, specs())  # the rewriting itself does no harm
    rewrite(weights, lie)
    with pytest.raises(ArtifactError):
        map_file(weights, specs())
