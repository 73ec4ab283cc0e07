"""What `Model.stream` gives: segments one by one, and what is known of the whole on the way."""

from collections.abc import Iterator
from dataclasses import dataclass

from mwc.runtime.transcribe import Transcription
from mwc.runtime.transcript import Segment, Transcript


@dataclass
class Opened:
    """What a stream has opened once its first segment was asked for."""

    transcription: Transcription | None = None


class Stream(Iterator[Segment]):
    """Segments of one file, in order of time, as they are decoded.

    Use it up, `close` it, or use it as a context manager: until then its file is open, and it has
    its share of the model. Between two segments other calls go on.
    """

    def __init__(self, segments: Iterator[Segment], opened: Opened) -> None:
        """Use `Model.stream`."""
        self._segments = segments
        self._opened = opened

    def __next__(self) -> Segment:
        return next(self._segments)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop here; what has been given stays in `transcript`."""
        close = getattr(self._segments, "close", None)
        if close is not None:
            close()

    @property
    def language(self) -> str | None:
        """Code of the file's language; None before the first segment was asked for."""
        begun = self._opened.transcription
        return None if begun is None else begun.language

    @property
    def duration(self) -> float | None:
        """Seconds of audio; None before the first segment was asked for."""
        begun = self._opened.transcription
        return None if begun is None else begun.duration

    def transcript(self) -> Transcript:
        """The transcript of the segments given so far.

        Raises:
            ValueError: none was asked for yet.
        """
        if self._opened.transcription is None:
            raise ValueError("nothing was decoded yet; ask for a segment first")
        return self._opened.transcription.transcript()
