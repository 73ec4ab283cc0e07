"""Decode an audio or video file to 16 kHz mono samples, block by block, through PyAV.

The samples are those of openai/whisper's `load_audio` (`whisper/audio.py`), which runs
`ffmpeg -f s16le -ac 1 -ar 16000` and divides by 32768: the same libraries in this process, with
the same 16-bit output. Asking the resampler for float output instead would skip its normalisation
of the channel mix (stereo would come out 3 dB louder). Across FFmpeg versions decoders and the
resampler differ by a few 16-bit steps.

Only open files reach PyAV, never names: FFmpeg reads URLs and playlists, and a playlist can make
it read any other file. The formats allowed are those that hold their audio themselves.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import av.error
import numpy as np
import numpy.typing as npt

from mwc.runtime.errors import AudioError
from mwc.runtime.spec import SAMPLE_RATE

Float32 = npt.NDArray[np.float32]
Int16 = npt.NDArray[np.int16]

BLOCK_SAMPLES = 10 * SAMPLE_RATE
"""Decoded frames are gathered to blocks of about this length: 10 s, 640 kB."""

FORMATS = (
    "wav,w64,aiff,au,caf,mp3,flac,ogg,mov,matroska,aac,asf,amr,ac3,eac3,dts,tta,wv,"
    "avi,flv,mpegts,mpeg"
)
"""FFmpeg's names of the containers that may be opened."""

OPEN_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}

WAV_OPTIONS = {"max_probe_packets": "8"}
"""FFmpeg looks through a WAV file for AC-3 or DTS that says it is PCM: at most 2,500 packets, which
takes 6 ms of a clip of 5 s. Eight are 32 KB, in which DTS has seven frames, and four are enough to
tell (`libavformat/dtsdec.c`)."""

EXACT_DURATION = ("flac", "mov", "matroska", "aiff", "au")
"""Containers whose header states the duration; elsewhere FFmpeg estimates or reads it off the end
of what is there, so that a shorter decode proves nothing."""

MISSING_SECONDS = 0.5
"""A decode shorter than the stated duration by more than this is called truncated."""

MAX_DAMAGED_RUN = 500
"""Packets in a row that may fail to decode before the rest of the file is given up."""

UNKNOWN_RIFF_SIZE = 0x7FFF0000
"""RIFF sizes from here on are what writers to a pipe put where they cannot know the size."""

FAILURES = (av.error.FFmpegError, ValueError, EOFError, OSError, MemoryError, IndexError)
"""Everything PyAV was seen to raise on damaged files."""


@dataclass(frozen=True)
class OpenRecording:
    """A file that FFmpeg has opened, at its start.

    Attributes:
        file: the file; nobody else moves it while this is used.
        name: what to call it in messages.
        container: PyAV's.
        stream: the audio in it.
        n_missing: bytes that its header announces and it does not have.
    """

    file: BinaryIO
    name: str
    container: Any
    stream: Any
    n_missing: int

    @property
    def seconds(self) -> float | None:
        """Its duration as far as its header tells."""
        if self.stream.duration is not None and self.stream.time_base is not None:
            return float(self.stream.duration * self.stream.time_base)
        return None if self.container.duration is None else self.container.duration / 1e6


@contextmanager
def open_recording(file: BinaryIO, name: str) -> Iterator[OpenRecording]:
    """Open a file from its start, and check that it holds audio.

    Args:
        file: seekable, positioned anywhere; left open.
        name: what to call it in messages.

    Raises:
        AudioError: not an audio or video file of a known format, or one without audio; also for
            what PyAV raises while it is open.
    """
    wav_size = _wav_size(file)
    n_missing = 0 if wav_size is None else _missing_bytes(file, wav_size)
    with _open(file, name, {} if wav_size is None else WAV_OPTIONS) as container:
        yield OpenRecording(file, name, container, _audio_stream(container, name), n_missing)


def decode_blocks(opened: OpenRecording, warnings: list[str]) -> Iterator[Float32]:
    """Decode a file from its start: yields float32 [about BLOCK_SAMPLES] in [-1, 1], 16 kHz mono.

    Damage is stepped over where it can be; what was lost is appended to `warnings`, one sentence
    per thing that was wrong but not fatal.

    Raises:
        AudioError: nothing in it decodes, or it holds NaN or infinite samples.
    """
    name, container, stream = opened.name, opened.container, opened.stream
    if opened.n_missing:
        warnings.append(
            f"{name} is truncated: {opened.n_missing} bytes that its header announces are gone"
        )
    if len(container.streams.audio) > 1:
        warnings.append(
            f"{name} has {len(container.streams.audio)} audio streams; "
            f"only stream {stream.index} is used"
        )
    n_samples = 0
    for block in _gather(_resampled(container, stream, name, warnings)):
        n_samples += len(block)
        yield block.astype(np.float32) / np.float32(32768)
    stated = _stated_seconds(opened)
    seconds = n_samples / SAMPLE_RATE
    if n_samples == 0:
        raise AudioError(
            f"{name} has no audio samples: nothing in it could be decoded; "
            "check that it plays elsewhere, or export it again"
        )
    if stated is not None and stated - seconds > MISSING_SECONDS:
        warnings.append(
            f"{name} ends after {seconds:.1f} s although its header says {stated:.1f} s: "
            "it is truncated or damaged"
        )


def resample(samples: npt.NDArray[Any], rate: int) -> Iterator[Float32]:
    """Convert mono samples [n] of `rate` Hz, int16 or floating, to 16 kHz float32 blocks."""
    dtype, sample_format = (np.int16, "s16") if samples.dtype == np.int16 else (np.float32, "flt")
    resampler = av.AudioResampler(format=sample_format, layout="mono", rate=SAMPLE_RATE)
    for start in range(0, len(samples), 10 * rate):
        part: Any = samples[np.newaxis, start : start + 10 * rate].astype(dtype, order="C")
        frame = av.AudioFrame.from_ndarray(part, format=sample_format, layout="mono")
        frame.sample_rate = rate
        yield from (_unit(out.to_ndarray()[0]) for out in resampler.resample(frame))
    yield from (_unit(out.to_ndarray()[0]) for out in resampler.resample(None))


def _unit(samples: npt.NDArray[Any]) -> Float32:
    """Samples as float32 with full scale 1: int16 is divided by 32768, floats stay as they are."""
    scale = np.float32(32768 if samples.dtype == np.int16 else 1)
    return samples.astype(np.float32) / scale


@contextmanager
def _open(file: BinaryIO, name: str, options: dict[str, str]) -> Iterator[Any]:
    """Open a container from its start; anything it raises becomes one AudioError."""
    options = {**OPEN_OPTIONS, **options}
    try:
        file.seek(0)
        with av.open(file, "r", options=options, metadata_errors="replace") as container:
            yield container
    except FAILURES as error:
        raise AudioError(
            f"{name} cannot be read as audio ({_reason(error)}): it is damaged, truncated, or not "
            "an audio or video file; WAV, FLAC, MP3, OGG, M4A, MP4, WebM and the like are read"
        ) from error


def _reason(error: BaseException) -> str:
    """What an exception says, without PyAV's error number and file name."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).rstrip(".")


def _audio_stream(container: Any, name: str) -> Any:
    """The stream FFmpeg itself would pick; PyAV has no codec context for an unknown codec."""
    stream = container.streams.best("audio")
    if container.streams.audio and (stream is None or stream.codec_context is None):
        raise AudioError(
            f"{name} cannot be read as audio (nothing in it decodes): it is damaged, or not what "
            "its name says; check that it plays elsewhere, or export it again"
        )
    if stream is None:
        kinds = sorted({other.type for other in container.streams}) or ["no"]
        raise AudioError(
            f"{name} has no audio stream (it has {', '.join(kinds)} streams); "
            "give a file with at least one"
        )
    return stream


def _resampled(container: Any, stream: Any, name: str, warnings: list[str]) -> Iterator[Int16]:
    """Decode every packet that can be; yields int16 [n] at 16 kHz, n as the codec has it."""
    to_mono = _MonoResampler()
    floating = stream.codec_context.name.startswith(("pcm_f32", "pcm_f64", "pcm_f16"))
    damaged = damaged_run = 0
    for packet in _packets(container, stream, name, warnings):
        try:
            frames = packet.decode()
        except FAILURES:
            damaged += 1
            damaged_run += 1
            if damaged_run < MAX_DAMAGED_RUN:
                continue
            warnings.append(f"{name} was given up after {damaged_run} damaged packets in a row")
            break
        damaged_run = 0
        for frame in frames:
            if floating and not np.isfinite(frame.to_ndarray()).all():
                raise AudioError(
                    f"{name} holds NaN or infinite samples; only finite numbers are audio: "
                    "export it again"
                )
            yield from to_mono.feed(frame)
    yield from to_mono.flush()
    if damaged:
        warnings.append(
            f"{name} is damaged: {damaged} of its packets could not be decoded, and "
            f"{'is' if damaged == 1 else 'are'} left out"
        )


def _packets(container: Any, stream: Any, name: str, warnings: list[str]) -> Iterator[Any]:
    """The stream's packets up to its end, or to where the container can be read no further."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except FAILURES as error:
            warnings.append(f"{name} could not be read to its end ({_reason(error)})")
            return
        yield packet


class _MonoResampler:
    """FFmpeg's resampler to 16 kHz mono s16, rebuilt where a stream changes its format midway."""

    def __init__(self) -> None:
        self._resampler: av.AudioResampler | None = None
        self._setup: tuple[str, str, int] | None = None

    def feed(self, frame: Any) -> list[Int16]:
        """Take one decoded frame; return what is ready, a list of int16 [n]."""
        setup = (frame.format.name, frame.layout.name, frame.sample_rate)
        out: list[Int16] = []
        if setup != self._setup:
            out = self.flush()
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            self._setup = setup
        assert self._resampler is not None
        frame.pts = None  # gaps in the timestamps are not filled, as in ffmpeg
        return out + [ready.to_ndarray()[0] for ready in self._resampler.resample(frame)]

    def flush(self) -> list[Int16]:
        """Return what the resampler still holds."""
        if self._resampler is None:
            return []
        return [ready.to_ndarray()[0] for ready in self._resampler.resample(None)]


def _gather(parts: Iterator[Int16]) -> Iterator[Int16]:
    """Join short arrays to blocks of at least BLOCK_SAMPLES (the last may be shorter)."""
    waiting: list[Int16] = []
    n_waiting = 0
    for part in parts:
        waiting.append(part)
        n_waiting += len(part)
        if n_waiting >= BLOCK_SAMPLES:
            yield np.concatenate(waiting)
            waiting, n_waiting = [], 0
    if n_waiting:
        yield np.concatenate(waiting)


def _stated_seconds(opened: OpenRecording) -> float | None:
    """The audio's duration where the header states it exactly, else None."""
    container, stream = opened.container, opened.stream
    container_name = container.format.name.split(",")[0]
    if container_name not in EXACT_DURATION and not (
        container_name == "mp3" and _has_frame_count(opened.file)
    ):
        return None
    is_streams = stream.duration is not None and stream.time_base is not None
    return opened.seconds if is_streams or len(container.streams) == 1 else None


def _has_frame_count(file: BinaryIO) -> bool:
    """Whether an MP3 starts with a frame that counts the others (Xing, Info or VBRI tag)."""
    file.seek(0)
    head = file.read(10)
    if head[:3] == b"ID3" and len(head) == 10:
        size = (head[6] << 21) + (head[7] << 14) + (head[8] << 7) + head[9]
        file.seek(10 + size)
    first = file.read(2048)
    return any(tag in first for tag in (b"Xing", b"Info", b"VBRI"))


def _wav_size(file: BinaryIO) -> int | None:
    """The size that a RIFF WAVE file announces, without its first 8 bytes; None for others."""
    file.seek(0)
    head = file.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    return int(struct.unpack("<I", head[4:8])[0])


def _missing_bytes(file: BinaryIO, wav_size: int) -> int:
    """How many bytes a WAV file is shorter than it says."""
    return max(0, wav_size + 8 - file.seek(0, 2)) if wav_size < UNKNOWN_RIFF_SIZE else 0
