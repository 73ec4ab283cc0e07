"""A loaded Whisper, ready to transcribe: what `load` returns and applications hold on to."""

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, overload

from mwc.runtime.artifact import Artifact, check_hashes, open_artifact
from mwc.runtime.audio import AudioInput, AudioSource, check_several, open_audio
from mwc.runtime.closing import Closing
from mwc.runtime.completed import Completed, in_order, raising
from mwc.runtime.detect import DetectedLanguage
from mwc.runtime.engine import MOST_LANES, Engine
from mwc.runtime.errors import AudioError, DeviceError, OptionError
from mwc.runtime.features import Features
from mwc.runtime.laps import Laps
from mwc.runtime.listen import listen
from mwc.runtime.many import HeardFile, transcribe_together
from mwc.runtime.options import TranscribeOptions, check_for_model, make_options
from mwc.runtime.progress import Progress, silent
from mwc.runtime.session import Session
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.speech import Speech
from mwc.runtime.stop import Event, Stop, stop_at
from mwc.runtime.stream import Opened, Stream
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcribe import Transcription, align, detect_language
from mwc.runtime.transcript import Segment, Transcript, Word


def load(
    path: str | Path, device: str = "auto", threads: int | None = None, lanes: int = MOST_LANES
) -> "Model":
    """Load an artifact.

    Args:
        path: the folder `mwc convert` wrote.
        device: "auto" (a GPU when the artifact has code for one that is here, else the CPU),
            "cpu", "gpu", "gpu:1" for the second, or the name of one of the artifact's targets.
        threads: CPU threads; None for all that this process may use.
        lanes: windows that calls from several threads may have decoded at the same time; a call's
            own `batch_size` may be more. Memory for them is taken when they are needed.

    Raises:
        ArtifactError: it is missing, damaged, or of another format or MAX version.
        TargetError: it holds nothing that this machine can run.
        OptionError: an argument is not allowed.
        MemoryShortage: its weights do not fit on the GPU, or what one window takes beside them.
    """
    laps = Laps()
    artifact = open_artifact(path)
    laps.end("artifact")
    return Model(artifact, device=device, threads=threads, lanes=lanes, laps=laps)


class Model(Closing):
    """One loaded artifact.

    Any number of threads may call it at the same time: up to `lanes` of their windows are decoded
    together, each with the result that it has alone, and when there are more, calls take turns
    from window to window. As a context manager it is closed at the end.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        device: str,
        threads: int | None,
        lanes: int = MOST_LANES,
        laps: Laps | None = None,
    ) -> None:
        laps = laps or Laps()
        if not isinstance(lanes, int) or lanes < 1:
            raise OptionError(f"lanes is {lanes!r}; it takes a whole number from 1 on.")
        self._artifact = artifact
        # The tokenizer, and PyAV for the first file, are ready by the time the graphs are.
        with ThreadPoolExecutor(max_workers=1) as beside:
            tokenizer = beside.submit(_open_tokenizer, artifact)
            beside.submit(import_module, "mwc.runtime.audio_file")
            session = Session(artifact, device=device, threads=threads, laps=laps)
            engine = Engine(session, tokenizer.result(), most_lanes=lanes)
        laps.end("tokenizer")
        self._load_seconds = laps.seconds
        self._loaded: tuple[Session, Engine] | None = session, engine

    def close(self) -> None:
        """Let weights, graphs and caches go, once calls under way have ended.

        Calls made afterwards raise DeviceError.
        """
        self._loaded = None

    def _open(self) -> tuple[Session, Engine]:
        if self._loaded is None:
            raise DeviceError("the model has been closed; load it again.")
        return self._loaded

    @property
    def _engine(self) -> Engine:
        return self._open()[1]

    @property
    def artifact(self) -> Artifact:
        """The artifact it was loaded from."""
        return self._artifact

    @property
    def spec(self) -> WhisperSpec:
        """The model's dimensions, audio constants and tokens."""
        return self._artifact.manifest.spec

    @property
    def load_seconds(self) -> dict[str, float]:
        """How long each stage of loading took.

        "artifact" (opened and checked, by `load`), "device" (MAX itself, and what runs the graphs),
        "weights" and "graphs" brought there, "caches" for one window, and "tokenizer": what was
        left to wait for of it, as it is read beside the others.
        """
        return dict(self._load_seconds)

    @property
    def target(self) -> str:
        """The name of the target that runs, for example "cpu-host"."""
        return self.session.target.name

    @property
    def session(self) -> Session:
        """The entry points themselves, for those who want more than transcripts."""
        return self._open()[0]

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._engine.tokenizer

    def transcribe(
        self,
        audio: AudioInput | AudioSource,
        *,
        progress: Progress = silent,
        cancel: Event | None = None,
        **options: Any,
    ) -> Transcript:
        """Transcribe one file.

        Args:
            audio: a path, bytes, a binary file, an opened source, float32, float64 or int16 samples
                [n] at 16 kHz, or (samples, rate).
            progress: told the seconds of audio read ("read audio"), then done ("transcribe").
            cancel: once it is set, from any thread, the call ends after what the model is doing: at
                most encoding a window (on a GPU those of a batch), up to six tokens of each window
                under way, and the word times of windows that end with them.
            options: fields of `TranscribeOptions`, for example language="de".

        Raises:
            AudioError: the audio cannot be used.
            OptionError: an option is unknown or not allowed.
            BusyError: the audio or `cancel` calls the model that waits for it.
            Cancelled: `cancel` was set; its `transcript` holds what was done by then.
        """
        return _used_up(self._stream(audio, make_options(**options), progress, cancel))

    def stream(
        self,
        audio: AudioInput | AudioSource,
        *,
        progress: Progress = silent,
        cancel: Event | None = None,
        **options: Any,
    ) -> Stream:
        """Transcribe one file, giving each segment as soon as its window is decoded.

        Arguments and errors as for `transcribe`; options are checked at once, the audio when the
        first segment is asked for. Other calls of the model go on meanwhile, from this thread too.
        """
        return self._stream(audio, make_options(**options), progress, cancel)

    def _stream(
        self,
        audio: AudioInput | AudioSource,
        options: TranscribeOptions,
        progress: Progress,
        cancel: Event | None,
    ) -> Stream:
        opened = Opened()

        def segments() -> Iterator[Segment]:
            opened.transcription = self._begin(_source(audio), options, progress, cancel)
            yield from opened.transcription

        return Stream(segments(), opened)

    @overload
    def transcribe_many(
        self,
        audios: Iterable[AudioInput | AudioSource],
        *,
        progress: Progress = silent,
        cancel: Event | None = None,
        skip_errors: Literal[False] = False,
        **options: Any,
    ) -> Iterator[Transcript]: ...

    @overload
    def transcribe_many(
        self,
        audios: Iterable[AudioInput | AudioSource],
        *,
        progress: Progress = silent,
        cancel: Event | None = None,
        skip_errors: Literal[True],
        **options: Any,
    ) -> Iterator[Transcript | AudioError]: ...

    def transcribe_many(
        self,
        audios: Iterable[AudioInput | AudioSource],
        *,
        progress: Progress = silent,
        cancel: Event | None = None,
        skip_errors: bool = False,
        **options: Any,
    ) -> Iterator[Transcript | AudioError]:
        """Transcribe files with the same options; gives their transcripts in order.

        With `batch_size` above 1 parts of several files are decoded together; each file gets the
        transcript that `transcribe` with the same options gives it.

        Args:
            audios: what `transcribe` takes, taken from the iterable as there is room. With
                `batch_size` on a GPU the next few are read meanwhile: files stay where they are,
                and samples in a list as they are, until their transcripts have come.
            progress: told the seconds of audio done; with `batch_size`, of all files opened so far.
            cancel: as for `transcribe`; what was not given yet is lost.
            skip_errors: give the AudioError of a file that cannot be used in its place and go on,
                instead of raising it.
            options: as for `transcribe`.

        Raises:
            AudioError: a file cannot be used; transcripts of the files before it have been given.
            OptionError: an option is unknown or not allowed; told at once, except what does not
                suit this model.
            BusyError: the audio or `cancel` calls the model that waits for it.
            Cancelled: `cancel` was set.
        """
        completed = self._completed(audios, progress, cancel, options)
        return in_order(completed) if skip_errors else raising(in_order(completed))

    def transcribe_as_completed(
        self,
        audios: Iterable[AudioInput | AudioSource],
        *,
        progress: Progress = silent,
        cancel: Event | None = None,
        **options: Any,
    ) -> Iterator[Completed]:
        """Transcribe files like `transcribe_many`, and give each as soon as it is done.

        With `batch_size` a short file may be done long before a long one that was given first.
        What has been given is safe: if the rest fails, or is cancelled, only files that were not
        done are lost.

        Returns:
            Of each file its number, from 0 in the order of `audios`, and its transcript, or the
            AudioError why there is none.

        Raises:
            Others as for `transcribe_many`.
        """
        return self._completed(audios, progress, cancel, options)

    def _completed(
        self,
        audios: Iterable[AudioInput | AudioSource],
        progress: Progress,
        cancel: Event | None,
        options: dict[str, Any],
    ) -> Generator[Completed, None, None]:
        chosen = make_options(**options)
        check_several(audios)
        work = self._together if chosen.batch_size > 1 else self._in_turn
        return work(audios, chosen, progress, cancel)

    def _in_turn(
        self,
        audios: Iterable[AudioInput | AudioSource],
        options: TranscribeOptions,
        progress: Progress,
        cancel: Event | None,
    ) -> Generator[Completed, None, None]:
        """File after file."""
        for number, audio in enumerate(audios):
            try:
                found = _used_up(self._stream(audio, options, progress, cancel))
            except AudioError as error:
                yield number, error
            else:
                yield number, found

    def _together(
        self,
        audios: Iterable[AudioInput | AudioSource],
        options: TranscribeOptions,
        progress: Progress,
        cancel: Event | None,
    ) -> Generator[Completed, None, None]:
        """Files in the lanes of one engine."""
        stop = stop_at(cancel)

        def heard(audio: AudioInput | AudioSource, stop: Stop) -> HeardFile:
            return HeardFile(*self._listen(_source(audio), options, stop=stop))

        check_for_model(options, self.spec)
        self._engine.check_memory(options)
        yield from transcribe_together(self._engine, options, audios, heard, progress, stop)

    def detect_language(
        self, audio: AudioInput | AudioSource, *, languages: Iterable[str] | None = None
    ) -> DetectedLanguage:
        """Tell the language from the first 30 s.

        Args:
            audio: as for `transcribe`.
            languages: the only codes or English names that may be found; None for all.

        Raises:
            OptionError: the model knows English only, or lacks one of `languages`.
            AudioError: the audio cannot be used.
            BusyError: the audio calls the model that waits for it.
        """
        options = make_options(languages=languages)
        check_for_model(options, self.spec)
        features, _ = self._listen(_source(audio), options)
        return detect_language(self._engine, features, options)

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
            BusyError: the audio calls the model that waits for it.
        """
        if not isinstance(text, str):
            raise OptionError(f"text is {text!r}; it takes text.")
        options = make_options(language=language, word_timestamps=True)
        features, speech = self._listen(_source(audio), options)
        return align(self._engine, features, text, options, speech)

    def _begin(
        self,
        source: AudioSource,
        options: TranscribeOptions,
        progress: Progress,
        cancel: Event | None,
    ) -> Transcription:
        """Read a file once and plan the rest."""
        stop = stop_at(cancel)
        check_for_model(options, self.spec)
        self._engine.check_memory(options)
        features, speech = self._listen(source, options, progress, stop)
        return Transcription(
            self._engine,
            features,
            options,
            speech=speech,
            progress=progress,
            stop=stop,
        )

    def _listen(
        self,
        source: AudioSource,
        options: TranscribeOptions,
        progress: Progress = silent,
        stop: Stop = lambda: False,
    ) -> tuple[Features, Speech | None]:
        entry = self._artifact.manifest.detector
        name = f"{entry.name} {entry.version}" if options.needs_speech else None
        return listen(self._engine, source, name, progress, stop)


def _open_tokenizer(artifact: Artifact) -> Tokenizer:
    """The artifact's tokenizer; a damaged one would give other words, and no error."""
    files = [file.path for file in artifact.manifest.files]
    check_hashes(artifact, paths=[path for path in files if path.startswith("tokenizer/")])
    return Tokenizer(artifact.path / "tokenizer", artifact.manifest.spec.tokens)


def _used_up(stream: Stream) -> Transcript:
    """What a stream gives, all of it."""
    for _ in stream:
        pass
    return stream.transcript()


def _source(audio: AudioInput | AudioSource) -> AudioSource:
    return audio if isinstance(audio, AudioSource) else open_audio(audio, to_read=True)
