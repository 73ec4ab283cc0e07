"""Whatever a caller has, a file, bytes, an open stream or samples, as blocks of 16 kHz mono audio.

`open_audio` checks at once what can be checked at once; `blocks` then reads as it is asked, so an
hours-long file never has to fit into memory. Reading twice is always possible.
"""

import os
import stat
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from io import BytesIO
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

import numpy as np
import numpy.typing as npt

from mwc.runtime.disk import NO_ROOM, how_to_make_room
from mwc.runtime.errors import AudioError
from mwc.runtime.read_ahead import read_ahead
from mwc.runtime.spec import SAMPLE_RATE

if TYPE_CHECKING:
    from mwc.runtime.audio_file import OpenRecording

Float32 = npt.NDArray[np.float32]

SAMPLE_RATES = (1000, 768000)
"""The lowest and highest rate in Hz that samples may be given at."""

LOUDEST = 16.0
"""Float samples beyond this are taken for unscaled integers; full scale is 1.0 (openai/whisper's
`load_audio` divides by 32768), and mixing or resampling overshoots it by far less."""

SHORT_SECONDS = 30.0
"""Up to here a file is not read ahead: a window takes all of it before there is work to do."""

SPOOL_BYTES = 1 << 20
"""A stream that cannot seek is copied to a temporary file in reads of this size."""


class AudioSource(ABC):
    """Audio that can be read from its start, as often as needed.

    Attributes:
        name: the path as given, an open file's own, or "<bytes>", "<stream>", "<samples>".
        warnings: one sentence for each thing that was wrong but not fatal in the latest reading;
            complete once that reading has ended.
        duration_hint: seconds, from the header or an estimate of it; None where unknown.
    """

    def __init__(self, name: str, duration_hint: float | None) -> None:
        self.name = name
        self.warnings: list[str] = []
        self.duration_hint = duration_hint

    @abstractmethod
    def blocks(self) -> Iterator[Float32]:
        """Read from the start: yields float32 [n] mono 16 kHz in [-1, 1], n free, at least 1 once.

        Each call starts anew. Of a source made from an open file, use one iterator at a time. What
        it yields may be the caller's own samples: it is read only.

        Raises:
            AudioError: the audio turns out to be unreadable or empty on the way.
        """


AudioInput = str | Path | bytes | BinaryIO | npt.NDArray[Any] | tuple[npt.NDArray[Any], int]
"""What `open_audio` takes."""


def open_audio(source: AudioInput, *, to_read: bool = False) -> AudioSource:
    """Make a source of anything that holds audio.

    Args:
        source: the path of an audio or video file; the bytes of one; a binary file object with
            one, which is read from its start (or, where it cannot seek, to its end now, into a
            temporary file) and stays the caller's to close; mono samples at 16 kHz, a numpy array
            [n] of int16, or of float32 or float64 with full scale 1.0; or a tuple of such an
            array and its sample rate in Hz.
        to_read: whether it is read at once: a file at a path then stays open until it is read, and
            need not be opened again for its first reading.

    Raises:
        AudioError: a path that is missing or no file; empty; not audio; without an audio stream;
            samples of another rank or type, none at all, not finite or not scaled; a bad rate.
    """
    if isinstance(source, tuple):
        if len(source) != 2:
            raise AudioError(
                f"a tuple of {len(source)} items is not audio; give (samples, sample rate in Hz)"
            )
        return _Samples(source[0], source[1])
    if isinstance(source, np.ndarray):
        return _Samples(source, SAMPLE_RATE)
    if isinstance(source, bytes | bytearray | memoryview):
        return _Recording("<bytes>", _Shared(BytesIO(source)))
    if isinstance(source, str | os.PathLike):
        return _open_path(source, to_read=to_read)
    if hasattr(source, "read"):
        return _open_stream(source)
    raise AudioError(
        f"{type(source).__name__} is not audio; give a path, bytes, a binary file object, "
        "a numpy array of 16 kHz mono samples, or (array, sample rate)"
    )


def read_samples(audio: AudioInput) -> Float32:
    """Read the whole of anything that `open_audio` takes: float32 [n] mono 16 kHz in [-1, 1].

    Raises:
        AudioError: as `open_audio`, or the audio turns out to be unreadable or empty on the way.
    """
    return np.concatenate(list(open_audio(audio, to_read=True).blocks()))


class _Opener(Protocol):
    """Gives a seekable binary file for the length of a with block."""

    def __call__(self) -> AbstractContextManager[BinaryIO]: ...


class _Shared:
    """Gives the same open file each time, and leaves it open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __call__(self) -> AbstractContextManager[BinaryIO]:
        return nullcontext(self._file)


class _Recording(AudioSource):
    """An encoded file, decoded by FFmpeg's libraries."""

    def __init__(self, name: str, opener: _Opener, *, stays_open: bool = False) -> None:
        """Open it, to see whether it can be; `stays_open`: until it is read for the first time."""
        super().__init__(name, None)
        self._opener = opener
        self._kept: tuple[ExitStack, OpenRecording] | None = None
        try:
            with ExitStack() as stack:
                opened = stack.enter_context(self._opened())
                self.duration_hint = opened.seconds
                if stays_open:
                    self._kept = stack.pop_all(), opened
        except (OSError, ValueError) as error:
            raise _unreadable(name, error) from error

    def blocks(self) -> Iterator[Float32]:
        decoded = self._decoded()
        is_short = self.duration_hint is not None and self.duration_hint <= SHORT_SECONDS
        return decoded if is_short else read_ahead(decoded)

    def _decoded(self) -> Generator[Float32, None, None]:
        from mwc.runtime.audio_file import decode_blocks

        self.warnings.clear()
        stack, opened = self._kept or (ExitStack(), None)
        self._kept = None
        try:
            with stack:
                opened = opened or stack.enter_context(self._opened())
                yield from decode_blocks(opened, self.warnings)
        except (OSError, ValueError) as error:
            raise _unreadable(self.name, error) from error

    @contextmanager
    def _opened(self) -> Iterator["OpenRecording"]:
        from mwc.runtime.audio_file import open_recording

        with self._opener() as file:
            if file.seek(0, os.SEEK_END) == 0:
                raise AudioError(f"{self.name} is empty (0 bytes); give a file with audio in it")
            with open_recording(file, self.name) as opened:
                yield opened


def _unreadable(name: str, error: Exception) -> AudioError:
    """The error for a file that the system or its owner will not let us read."""
    reason = getattr(error, "strerror", None) or error
    return AudioError(f"{name} cannot be read: {reason}; check the file and its permissions")


def _open_path(given: str | os.PathLike[str], *, to_read: bool) -> AudioSource:
    """A source of the file at a path, opened anew for each reading, or but for the first one."""
    name = os.fspath(given)
    if "://" in name:
        raise AudioError(f"{name} is a URL, and only local files are read; download it first")
    path = Path(name)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise AudioError(f"{name} does not exist; check the path") from None
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    if stat.S_ISDIR(mode):
        raise AudioError(f"{name} is a folder; give the audio files in it one by one")
    if stat.S_ISREG(mode):
        return _Recording(name, lambda: path.open("rb"), stays_open=to_read)
    try:
        with path.open("rb") as stream:
            return _Recording(name, _Shared(_spool(stream, name)))
    except OSError as error:
        raise _unreadable(name, error) from error


def _open_stream(stream: BinaryIO) -> AudioSource:
    """A source of an open file object, through a temporary copy where it cannot seek."""
    name = _stream_name(stream)
    try:
        if stream.seekable():
            if not isinstance(stream.read(0), bytes):
                raise AudioError(f"{name} is open as text; open it in binary mode ('rb')")
            return _Recording(name, _Shared(stream))
    except AttributeError:
        pass  # an object with nothing but read()
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    return _Recording(name, _Shared(_spool(stream, name)))


def read_whole(stream: BinaryIO) -> bytes:
    """All that an open file holds; of one that cannot seek, from where it is.

    Raises:
        AudioError: it cannot be read, or gives text.
    """
    name = _stream_name(stream)
    try:
        if hasattr(stream, "seekable") and stream.seekable():
            stream.seek(0)
        data = stream.read()
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    if not isinstance(data, bytes):
        raise AudioError(f"{name} is open as text; open it in binary mode ('rb')")
    return data


def check_several(audios: object) -> None:
    """Refuse a single input where several are wanted: a path is an iterable too, of characters.

    Raises:
        AudioError: it is no iterable of inputs.
    """
    single = (str, bytes, bytearray, memoryview, os.PathLike, np.ndarray)
    is_single = isinstance(audios, single) or hasattr(audios, "read")
    if is_single or not isinstance(audios, Iterable):
        raise AudioError(
            f"the files are given as a {type(audios).__name__}; give a list of them, also of one"
        )


def _stream_name(stream: BinaryIO) -> str:
    label = getattr(stream, "name", None)
    return label if isinstance(label, str) and label else "<stream>"


def _spool(stream: BinaryIO, name: str) -> BinaryIO:
    """Copy a stream to its end into a temporary file, which goes when it is no longer used."""
    try:
        copy = cast(BinaryIO, tempfile.TemporaryFile(prefix="mwc-audio-"))  # noqa: SIM115
        while chunk := stream.read(SPOOL_BYTES):
            if not isinstance(chunk, bytes):
                raise AudioError(f"{name} gives {type(chunk).__name__}, not bytes; open it as 'rb'")
            copy.write(chunk)
        copy.flush()
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise AudioError(
                f"{name} does not fit into {tempfile.gettempdir()} ({error.strerror}), where it is "
                f"copied as it can be read only once; {how_to_make_room(error)}, or name another "
                "folder in TMPDIR"
            ) from error
        raise _unreadable(name, error) from error
    return copy


class _Samples(AudioSource):
    """Mono samples that are already in memory."""

    def __init__(self, samples: Any, rate: Any) -> None:
        _check_samples(samples)
        self._samples: npt.NDArray[Any] = samples
        self._rate = _check_rate(rate)
        super().__init__("<samples>", len(samples) / self._rate)

    def blocks(self) -> Iterator[Float32]:
        self.warnings.clear()
        if self._rate != SAMPLE_RATE:
            from mwc.runtime.audio_file import resample

            yield from resample(self._samples, self._rate)
            return
        for start in range(0, len(self._samples), 10 * SAMPLE_RATE):
            yield _scaled(self._samples[start : start + 10 * SAMPLE_RATE])


def _scaled(samples: npt.NDArray[Any]) -> Float32:
    """Samples as float32 with full scale 1; those that are so already are not copied."""
    if samples.dtype == np.int16:
        scaled: Float32 = np.divide(samples, np.float32(32768), dtype=np.float32)
        return scaled
    return samples.astype(np.float32, copy=False)


def _check_samples(samples: Any) -> None:
    """Refuse what is not a non-empty [n] array of finite, scaled samples."""
    if not isinstance(samples, np.ndarray):
        raise AudioError(f"samples are a {type(samples).__name__}; give a numpy array")
    if samples.dtype not in (np.int16, np.float32, np.float64):
        raise AudioError(
            f"samples are {samples.dtype}; give int16, or float32 or float64 between -1 and 1"
        )
    if samples.ndim != 1:
        raise AudioError(
            f"samples have shape {samples.shape}; give one channel, shape (n,): "
            "average the channels of others"
        )
    if len(samples) == 0:
        raise AudioError("samples are empty (shape (0,)); give at least one")
    if samples.dtype == np.int16:
        return
    peak = max(abs(float(samples.max())), abs(float(samples.min())))
    if not np.isfinite(peak):
        bad = ~np.isfinite(samples)
        raise AudioError(
            f"{int(bad.sum())} of {len(samples)} samples are NaN or infinite, the first at "
            f"{int(bad.argmax())}; only finite numbers are audio: check where they come from"
        )
    if peak > LOUDEST:
        raise AudioError(
            f"samples reach {peak:g}, and full scale is 1.0; divide 16-bit values by 32768, "
            "or give them as int16"
        )


def _check_rate(rate: Any) -> int:
    """Return a sample rate in Hz as an int, or refuse it."""
    lowest, highest = SAMPLE_RATES
    try:
        value = index(rate)
    except TypeError:
        value = -1
    if not lowest <= value <= highest:
        raise AudioError(
            f"the sample rate is {rate!r}; give a whole number of Hz from {lowest} to {highest}"
        )
    return value
