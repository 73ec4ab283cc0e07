import gc
import io
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from audio_files import encode, encode_silent_film, tone, wav, with_codec
from descriptors import open_files

from mwc.runtime.audio import AudioInput, AudioSource, open_audio, read_samples
from mwc.runtime.errors import AudioError


def read(source: AudioInput | AudioSource) -> npt.NDArray[np.float32]:
    """All samples of a source."""
    if isinstance(source, AudioSource):
        return np.concatenate(list(source.blocks()))
    return read_samples(source)


def loudness(samples: npt.NDArray[np.float32]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


class Pipe:
    """A stream with nothing but read, as sockets and pipes have it."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 1000) if size > 0 else size)


# --- files ---------------------------------------------------------------------------------------


def test_a_16_khz_mono_wav_gives_its_samples(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 50000).astype(np.int16)
    path = tmp_path / "a.wav"
    path.write_bytes(wav(samples))
    for given in (path, str(path)):
        source = open_audio(given)
        got = read(source)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, samples / np.float32(32768))
        assert (source.name, source.warnings) == (str(path), [])
        assert source.duration_hint == pytest.approx(50000 / 16000)


@pytest.mark.parametrize(
    ("data", "few"), [(wav(tone(9.0)), True), (encode(tone(9.0), 16000, "flac", "flac"), False)]
)
def test_only_of_a_wav_few_packets_are_probed(
    monkeypatch: pytest.MonkeyPatch, data: bytes, few: bool
) -> None:
    """FFmpeg looks for other codecs in WAV files; where it has to find one, it may look on."""
    asked: list[dict[str, str]] = []
    original = av.open

    def opened(*given: Any, **options: Any) -> Any:
        asked.append(options["options"])
        return original(*given, **options)

    monkeypatch.setattr(av, "open", opened)
    assert len(read(data)) == 9 * 16000
    assert asked
    assert all(("max_probe_packets" in options) == few for options in asked)
    assert all(options["protocol_whitelist"] == "none" for options in asked)


def test_every_reading_starts_from_the_beginning(tmp_path: Path) -> None:
    data = wav(tone(25.0))
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    at_its_end = io.BytesIO(data)
    at_its_end.seek(0, 2)
    with path.open("rb") as file:
        for given in (path, data, file, at_its_end, Pipe(data), tone(25.0), (tone(25.0), 16000)):
            source = open_audio(given)  # type: ignore[arg-type]
            partly = source.blocks()
            next(partly)
            del partly
            np.testing.assert_array_equal(read(source), tone(25.0) / np.float32(32768))
            np.testing.assert_array_equal(read(source), tone(25.0) / np.float32(32768))
        assert not file.closed


def test_long_audio_comes_in_blocks() -> None:
    for given in (wav(tone(65.0)), (tone(65.0, 8000), 8000), tone(65.0)):
        lengths = [len(block) for block in open_audio(given).blocks()]
        assert sum(lengths) == pytest.approx(65 * 16000, abs=2)
        assert max(lengths) <= 170000
        assert len(lengths) >= 6


@pytest.mark.parametrize(("to_read", "n_opened"), [(False, [1, 2, 3]), (True, [1, 1, 2])])
def test_a_file_that_is_read_at_once_is_opened_once(
    to_read: bool, n_opened: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = 0
    start = av.open

    def count(*given: Any, **options: Any) -> Any:
        nonlocal opened
        opened += 1
        return start(*given, **options)

    monkeypatch.setattr(av, "open", count)
    path = tmp_path / "a.wav"
    path.write_bytes(wav(tone(5.0)))
    source = open_audio(path, to_read=to_read)
    found = [opened]
    for _ in range(2):
        np.testing.assert_array_equal(read(source), tone(5.0) / np.float32(32768))
        found.append(opened)
    assert found == n_opened


def test_a_file_that_stays_open_is_closed_when_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(tone(5.0)))
    source = open_audio(path, to_read=True)
    assert str(path) in open_files()
    read(source)
    assert str(path) not in open_files()
    unread = open_audio(path, to_read=True)
    del unread
    gc.collect()
    assert str(path) not in open_files()


@pytest.mark.parametrize(("seconds", "n_threads"), [(25.0, 0), (65.0, 1)])
def test_only_a_file_of_more_than_a_window_is_read_ahead(seconds: float, n_threads: int) -> None:
    blocks = open_audio(wav(tone(seconds))).blocks()
    next(blocks)
    assert sum(thread.name == "mwc-read-ahead" for thread in threading.enumerate()) == n_threads
    assert sum(map(len, blocks)) > 0


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("flac", "flac"),
        ("mp3", "mp3"),
        ("ogg", "libopus"),
        ("webm", "libopus"),
        ("matroska", "libopus"),
        ("ipod", "aac"),
        ("adts", "aac"),
        ("aiff", "pcm_s16be"),
        ("au", "pcm_s16be"),
        ("w64", "pcm_s16le"),
        ("avi", "mp3"),
        ("mpegts", "mp2"),
    ],
)
def test_formats(container: str, codec: str) -> None:
    rate = 48000
    source = open_audio(encode(tone(4.0, rate), rate, container, codec))
    got = read(source)
    assert len(got) / 16000 == pytest.approx(4.0, abs=0.15)
    assert loudness(got) == pytest.approx(loudness(tone(4.0) / np.float32(32768)), rel=0.1)
    assert source.warnings == []


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 192000, 384000])
def test_sample_rates(rate: int) -> None:
    got = read(wav(tone(3.0, rate), rate))
    assert len(got) == pytest.approx(48000, abs=2)
    np.testing.assert_allclose(got[800:-800], (tone(3.0) / 32768)[800:47200], atol=2e-3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 8])
def test_channels_are_mixed_without_a_change_of_level(channels: int) -> None:
    data = np.repeat(tone(2.0)[:, None], channels, axis=1)
    np.testing.assert_allclose(read(wav(data)), tone(2.0) / 32768, atol=2 / 32768)


def test_one_of_two_channels_is_halved() -> None:
    data = np.stack([tone(2.0), np.zeros_like(tone(2.0))], axis=1)
    np.testing.assert_allclose(read(wav(data)), tone(2.0) / 65536, atol=2 / 32768)


def test_float_files_are_read() -> None:
    data = wav((tone(2.0) / 32768).astype(np.float32))
    np.testing.assert_allclose(read(data), tone(2.0) / 32768, atol=2 / 32768)


def test_a_change_of_rate_midway_is_followed() -> None:
    data = encode(tone(3.0, 44100), 44100, "mp3", "mp3") + encode(
        tone(3.0, 22050), 22050, "mp3", "mp3"
    )
    got = read(data)
    assert len(got) / 16000 == pytest.approx(6.0, abs=0.3)
    assert loudness(got[-24000:-8000]) == pytest.approx(10000 / 32768 / np.sqrt(2), rel=0.1)


def test_silence_is_audio() -> None:
    assert not read(wav(np.zeros(16000, np.int16))).any()


def test_a_named_pipe_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(wav(tone(2.0))), daemon=True)
    writer.start()
    source = open_audio(path)
    writer.join(20)
    for _ in range(2):
        np.testing.assert_array_equal(read(source), tone(2.0) / np.float32(32768))


def test_a_wav_written_to_a_pipe_is_not_called_truncated() -> None:
    data = bytearray(wav(tone(3.0)))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    source = open_audio(bytes(data))
    assert len(read(source)) == 48000
    assert source.warnings == []


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "codec"),
    [("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "mp3"), ("aiff", "pcm_s16be")],
)
def test_a_truncated_file_gives_what_is_there_and_warns(container: str, codec: str) -> None:
    samples = np.random.default_rng(0).integers(-9000, 9000, 16000 * 8).astype(np.int16)
    data = wav(samples) if container == "wav" else encode(samples, 16000, container, codec)
    source = open_audio(data[: len(data) // 2])
    for _ in range(2):  # each reading has its own warnings
        assert len(read(source)) / 16000 == pytest.approx(4.0, abs=0.5)
        assert [w for w in source.warnings if "truncated" in w]
        assert len(source.warnings) == len(set(source.warnings))


def test_a_truncated_mp4_is_refused() -> None:
    data = encode(tone(4.0), 16000, "ipod", "aac")
    with pytest.raises(AudioError, match=r"<bytes> cannot be read as audio .* truncated"):
        open_audio(data[: len(data) // 2])


def test_damage_in_the_middle_is_stepped_over() -> None:
    data = bytearray(encode(tone(10.0), 16000, "flac", "flac"))
    middle = len(data) // 2
    data[middle : middle + len(data) // 5] = bytes(len(data) // 5)
    source = open_audio(bytes(data))
    assert 5.0 < len(read(source)) / 16000 < 10.0
    assert source.warnings


def test_a_variable_rate_mp3_without_a_header_is_not_called_truncated() -> None:
    bare = {"write_xing": "0", "id3v2_version": "0"}
    low = encode(tone(10.0, 44100), 44100, "mp3", "mp3", bit_rate=32000, **bare)
    high = encode(tone(10.0, 44100), 44100, "mp3", "mp3", bit_rate=320000, **bare)
    source = open_audio(low + high)
    seconds = len(read(source)) / 16000
    assert source.duration_hint is not None
    assert source.duration_hint > seconds + 20  # the estimate is far off
    assert source.warnings == []


def test_a_second_audio_stream_is_mentioned() -> None:
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        streams: list[Any] = [file.add_stream("pcm_s16le", rate=16000, layout="mono") for _ in "12"]
        packets: list[Any] = []
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(tone(1.0)[None], format="s16", layout="mono")
            frame.sample_rate = 16000
            packets += [*stream.encode(frame), *stream.encode(None)]
        for packet in packets:
            file.mux(packet)
    source = open_audio(out.getvalue())
    assert len(read(source)) == 16000
    assert source.warnings == ["<bytes> has 2 audio streams; only stream 0 is used"]


# --- refusals ------------------------------------------------------------------------------------


def refusal(source: Any) -> str:
    """What opening and reading a source is refused with: one sentence, no line breaks."""
    with pytest.raises(AudioError) as caught:
        read(source)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path / "none.wav") == f"{tmp_path / 'none.wav'} does not exist; check the path"
    )
    assert "is a folder" in refusal(tmp_path)
    assert "is a URL" in refusal("https://example.org/a.mp3")
    assert "cannot be read" in refusal("a\0b.wav")
    assert "File name too long" in refusal("a" * 300)
    assert "is empty (0 bytes)" in refusal("/dev/null")


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(tone(1.0)))

    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "cannot be read: Permission denied" in refusal(path)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
def test_files_that_hold_no_audio(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for content, reason in [
        (b"", "is empty (0 bytes)"),
        (b"\0" * 5000, "cannot be read as audio"),
        (b"not audio at all. " * 300, "cannot be read as audio"),
        (np.random.default_rng(1).bytes(40), "cannot be read as audio"),
        (encode_silent_film(), "has no audio stream (it has video streams)"),
        (with_codec(wav(tone(1.0)), 0x55AA), "cannot be read as audio (nothing in it decodes)"),
        (wav(np.zeros(0, np.int16)), "has no audio samples"),
        (wav(np.full(16000, np.nan, np.float32)), "holds NaN or infinite samples"),
        (wav(np.full(16000, np.inf, np.float32)), "holds NaN or infinite samples"),
    ]:
        path.write_bytes(content)
        text = refusal(path)
        assert text.startswith(str(path))
        assert reason in text


def test_random_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(2)
    kinds = [("flac", "flac"), ("mp3", "mp3"), ("ipod", "aac"), ("aiff", "pcm_s16be")]
    whole = [wav(tone(1.0)), *(encode(tone(1.0), 16000, *kind) for kind in kinds)]
    whole.append(encode(tone(1.0, 48000), 48000, "ogg", "libopus"))
    for turn in range(100):
        data = bytearray(whole[turn % len(whole)])
        for _ in range(1 + turn % 20):
            data[rng.integers(0, min(len(data), 200 if turn % 2 else len(data)))] = rng.integers(
                256
            )
        try:
            assert np.isfinite(read(bytes(data))).all()
        except AudioError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "playlist",
    ["ffconcat version 1.0\nfile '{path}'\n", "#EXTM3U\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n"],
    ids=["ffconcat", "hls"],
)
def test_playlists_open_no_other_file(
    tmp_path: Path, playlist: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret.wav").write_bytes(wav(tone(1.0)))
    for target in ("secret.wav", str(tmp_path / "secret.wav")):
        data = playlist.format(path=target).encode()
        for name in ("list.ffconcat", "list.m3u8", "list.wav"):
            Path(name).write_bytes(data)
            assert "cannot be read as audio" in refusal(name)
        assert "cannot be read as audio" in refusal(data)


def test_streams_that_are_not_binary_or_open(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(tone(1.0)))
    with path.open(encoding="latin-1") as text:
        assert "binary" in refusal(text)
    with path.open("rb") as closed:
        pass
    assert "closed file" in refusal(closed)

    class TextPipe:
        def read(self, size: int) -> str:
            return "x" * size

    assert "<stream> gives str, not bytes" in refusal(TextPipe())
    assert "is empty (0 bytes)" in refusal(io.BytesIO())
    assert "NoneType is not audio" in refusal(None)


def test_a_stream_that_the_temporary_folder_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
        text = refusal(Pipe(wav(tone(60.0))))
    assert f"<stream> does not fit into {tmp_path}" in text
    assert "No space left on device" in text
    assert "TMPDIR" in text


def test_a_stream_that_fails_while_it_is_read() -> None:
    class Broken(io.BytesIO):
        broken = False

        def read(self, size: int | None = -1) -> bytes:
            if self.broken:
                raise OSError(5, "Input/output error")
            return super().read(size)

    stream = Broken(wav(tone(60.0)))
    source = open_audio(stream)
    stream.broken = True
    assert "<bytes>" not in refusal(source)
    assert "Input/output error" in refusal(source)


# --- samples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
@pytest.mark.parametrize("step", [1, -2])
def test_samples_are_taken_as_they_are(dtype: type, step: int) -> None:
    samples = tone(2.0) if dtype is np.int16 else (tone(2.0) / 32768).astype(dtype)
    source = open_audio(samples[::step])
    got = read(source)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, (tone(2.0) / np.float32(32768))[::step], atol=1e-9)
    assert (source.name, source.duration_hint) == ("<samples>", len(got) / 16000)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 192000])
def test_samples_of_another_rate_are_resampled(dtype: type, rate: int) -> None:
    samples = tone(23.0, rate) if dtype is np.int16 else (tone(23.0, rate) / 32768).astype(dtype)
    source = open_audio((samples, rate))
    got = read(source)
    assert source.duration_hint == 23.0
    np.testing.assert_allclose(got, read(wav(tone(23.0, rate), rate)), atol=3 / 32768)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros((100, 2), np.float32), "shape (100, 2); give one channel"),
        (np.zeros((), np.float32), "shape (); give one channel"),
        (np.zeros(0, np.float32), "samples are empty"),
        (np.zeros(10, np.int32), "samples are int32"),
        (np.zeros(10, np.complex64), "samples are complex64"),
        (np.array([0, 0, np.nan, np.nan]), "2 of 4 samples are NaN or infinite, the first at 2;"),
        (np.array([0, -np.inf], np.float32), "1 of 2 samples are NaN or infinite, the first at 1;"),
        (np.array([0, 20000.0]), "samples reach 20000, and full scale is 1.0"),
        ((np.zeros(10), 44100.5), "the sample rate is 44100.5"),
        ((np.zeros(10), 0), "the sample rate is 0; give a whole number of Hz from 1000 to 768000"),
        ((np.zeros(10), -16000), "the sample rate is -16000"),
        ((np.zeros(10), "16000"), "the sample rate is '16000'"),
        (([0.0, 0.1], 16000), "samples are a list; give a numpy array"),
        ((np.zeros(10), 16000, 1), "a tuple of 3 items"),
    ],
)
def test_samples_that_are_refused(samples: Any, reason: str) -> None:
    assert reason in refusal(samples)


# --- the reference -------------------------------------------------------------------------------


@pytest.mark.corpus
def test_real_files_give_the_samples_of_openai_whisper(audio_dir: Path) -> None:
    whisper = pytest.importorskip("whisper")
    if shutil.which("ffmpeg") is None:
        pytest.skip("openai/whisper reads audio through an ffmpeg command, and there is none")
    by_suffix: dict[str, list[Path]] = {}
    for path in sorted(p for p in audio_dir.rglob("*") if p.is_file()):
        by_suffix.setdefault(path.suffix, []).append(path)
    chosen = [p for s in (".wav", ".mp3", ".flac", ".ogg") for p in by_suffix.get(s, [])[::25]]
    assert chosen
    for path in chosen:
        got, want = read(path), whisper.load_audio(str(path))
        assert got.shape == want.shape, path
        # FFmpeg versions differ by a few 16-bit steps in decoding and resampling.
        assert np.mean(np.abs(got - want) > 3.5 / 32768) < 0.01, path
