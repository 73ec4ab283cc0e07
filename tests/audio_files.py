"""Audio files made on the spot, for tests of reading them."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt


def tone(seconds: float, rate: int = 16000, hertz: float = 440.0) -> npt.NDArray[np.int16]:
    """A sine at a third of full scale, int16 [n]."""
    at = np.arange(round(seconds * rate)) / rate
    return (np.sin(2 * np.pi * hertz * at) * 10000).astype(np.int16)


def wav(samples: npt.NDArray[Any], rate: int = 16000) -> bytes:
    """A RIFF WAVE file of samples [n] or [n, channels], int16 or float32."""
    channels = samples.shape[1] if samples.ndim == 2 else 1
    width = samples.dtype.itemsize
    kind = 3 if samples.dtype == np.float32 else 1
    data = samples.tobytes()
    form = struct.pack(
        "<HHIIHH", kind, channels, rate, rate * channels * width, channels * width, width * 8
    )
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def with_codec(data: bytes, tag: int) -> bytes:
    """A RIFF WAVE file as `wav` makes it, but for the number that says how it is coded."""
    return data[:20] + struct.pack("<H", tag) + data[22:]


def encode(
    samples: npt.NDArray[np.int16],
    rate: int,
    container: str,
    codec: str,
    bit_rate: int = 128000,
    **options: str,
) -> bytes:
    """A mono file of samples int16 [n], written by PyAV with FFmpeg's container options."""
    import av

    out = BytesIO()
    with av.open(out, "w", format=container, options=options) as file:
        stream: Any = file.add_stream(codec, rate=rate)
        stream.layout = "mono"
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return out.getvalue()


def encode_silent_film() -> bytes:
    """A Matroska file with a video stream and no audio stream."""
    import av

    out = BytesIO()
    with av.open(out, "w", format="matroska") as file:
        stream: Any = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return out.getvalue()
