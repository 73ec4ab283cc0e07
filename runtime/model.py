"""A loaded Whisper, ready to transcribe: what `load` returns and applications hold on to."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mwc.runtime.artifact import Artifact, open_artifact
from mwc.runtime.audio import AudioInput, AudioSource, open_audio
from mwc.runtime.errors import BusyError, OptionError
from mwc.runtime.features import Features
from mwc.runtime.options import make_options
from mwc.runtime.progress import Progress, silent
from mwc.runtime.session import Session
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcribe import (
    DetectedLanguage,
    align,
    detect_language,
    transcribe,
    transcribe_segments,
)
from mwc.runtime.transcript import Segment, Transcript, Word


def load(path: str | Path, device: str = "auto", threads: int | None = None) -> "Model":
    """Load an artifact.

    Args:
        path: the folder `mwc convert` wrote.
        device: "auto" (a GPU when the artifact has code for one that is here, else the CPU),
            "cpu", "gpu", or the name of one of the artifact's targets.
        threads: CPU threads; None for all that this process may use.

    Raises:
        ArtifactError: it is missing, damaged, or of another format or MAX version.
        TargetError: it holds nothing that this machine can run.
        OptionError: an argument is not allowed.
    """
    return Model(open_artifact(path), device=device, threads=threads)


class Model:
    """One loaded artifact.

    Calls from several threads take turns: each waits until the model is free. A thread that still
    has a `stream` of its own open gets BusyError instead, since it would wait for itself.
    """

    def __init__(self, artifact: Artifact, *, device: str, threads: int | None) -> None:
        self._artifact = artifact
        self._session = Session(artifact, device=device, threads=threads)
        self._tokenizer = Tokenizer(artifact.path / "tokenizer", self.spec.tokens)
        self._lock = threading.Lock()
        self._owner: int | None = None

    @property
    def artifact(self) -> Artifact:
        """The artifact it was loaded from."""
        return self._artifact

    @property
    def spec(self) -> WhisperSpec:
        """The model's dimensions, audio constants and tokens."""
        return self._artifact.manifest.spec

    @property
    def target(self) -> str:
        """The name of the target that runs, for example "cpu-host"."""
        return self._session.target.name

    @property
    def session(self) -> Session:
        """The entry points themselves, for those who want more than transcripts."""
        return self._session

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    def transcribe(
        self, audio: AudioInput | AudioSource, *, progress: Progress = silent, **options: Any
    ) -> Transcript:
        """Transcribe one file.

        Args:
            audio: a path, bytes, a binary file, an opened source, float32 or int16 samples [n] at
                16 kHz, or (samples, rate).
            progress: told the seconds of audio done.
            options: fields of `TranscribeOptions`, for example language="de".

        Raises:
            AudioError: the audio cannot be used.
            OptionError: an option is unknown or not allowed.
            BusyError: this thread has a stream open on the model.
        """
        chosen = make_options(**options)
        with self._turn():
            features = self._features(audio, progress)
            return transcribe(self._session, self._tokenizer, features, chosen, progress)

    def stream(
        self, audio: AudioInput | AudioSource, *, progress: Progress = silent, **options: Any
    ) -> Iterator[Segment]:
        """Transcribe one file, giving each segment as soon as its window is decoded.

        Arguments and errors as for `transcribe`; options are checked at once, the audio when the
        first segment is asked for. The model is taken until the iterator ends or is closed.
        """
        chosen = make_options(**options)

        def segments() -> Iterator[Segment]:
            with self._turn():
                features = self._features(audio, progress)
                yield from transcribe_segments(
                    self._session, self._tokenizer, features, chosen, progress
                )

        return segments()

    def transcribe_many(
        self,
        audios: Iterable[AudioInput | AudioSource],
        *,
        progress: Progress = silent,
        **options: Any,
    ) -> Iterator[Transcript]:
        """Transcribe files one after another with the same options; see `transcribe`.

        A file that fails ends the iteration; to go on, call `transcribe` for each.
        """
        make_options(**options)
        return (self.transcribe(audio, progress=progress, **options) for audio in audios)

    def detect_language(self, audio: AudioInput | AudioSource) -> DetectedLanguage:
        """Tell the language from the first 30 s.

        Raises:
            OptionError: the model knows English only.
            AudioError, BusyError: as for `transcribe`.
        """
        with self._turn():
            return detect_language(self._session, self._features(audio, silent))

    def align(
        self, audio: AudioInput | AudioSource, text: str, *, language: str | None = None
    ) -> tuple[Word, ...]:
        """Find when each word of a text that is known was said.

        Args:
            audio: as for `transcribe`, from 20 ms to 30 s of it.
            text: what is said in it; line breaks count as spaces.
            language: a code or an English name; detected if None.

        Returns:
            The words in order, with the spaces and punctuation that belong to them.

        Raises:
            AudioError: the audio cannot be used, or is too short or too long.
            OptionError: the text has more tokens than the model's context holds, or names a
                special token; the language is unknown to the model, or not text.
            BusyError: this thread has a stream open on the model.
        """
        if not isinstance(text, str):
            raise OptionError(f"text is {text!r}; it takes text.")
        options = make_options(language=language, word_timestamps=True)
        with self._turn():
            features = self._features(audio, silent)
            return align(self._session, self._tokenizer, features, text, options)

    def _features(self, audio: AudioInput | AudioSource, progress: Progress) -> Features:
        source = audio if isinstance(audio, AudioSource) else open_audio(audio)
        return Features(source, self._session.log_mel, self.spec.model.n_mels, progress=progress)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Hold the model for one call."""
        me = threading.get_ident()
        if self._owner == me:
            raise BusyError(
                "this thread is still streaming from the model; take all its segments or close "
                "the stream first, or load the model twice."
            )
        with self._lock:
            self._owner = me
            try:
                yield
            finally:
                self._owner = None
