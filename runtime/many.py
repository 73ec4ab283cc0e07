"""Several files through one engine: lanes that one file leaves idle take parts of the next.

Files are opened as lanes fall free, given back in their order, and then let go.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mwc.runtime.audio import AudioInput, AudioSource
from mwc.runtime.call import Call
from mwc.runtime.engine import Engine
from mwc.runtime.errors import AudioError
from mwc.runtime.features import Features
from mwc.runtime.file_transcript import FileTranscript
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.progress import Progress, ProgressEvent
from mwc.runtime.speech import Speech
from mwc.runtime.stop import Stop
from mwc.runtime.transcript import Transcript
from mwc.runtime.work import Decoded, Failed, Part

Audio = AudioInput | AudioSource


@dataclass(frozen=True)
class HeardFile:
    """A file that was read through once: its log-mel frames and its speech."""

    features: Features
    speech: Speech | None


@dataclass
class _Begun:
    """A file with parts in the engine, or done; `error` is why it has no transcript."""

    features: Features
    file: FileTranscript
    seconds_done: float
    error: AudioError | None = None


def transcribe_together(
    engine: Engine,
    options: TranscribeOptions,
    audios: Iterable[Audio],
    hear: Callable[[Audio], HeardFile],
    progress: Progress,
    stop: Stop,
) -> Iterator[Transcript | AudioError]:
    """Transcribe files; each gives its transcript, or the error why there is none, in order.

    Args:
        engine: the model's.
        options: what is wanted of each file.
        audios: the files, taken when there is room for another.
        hear: reads one through, or raises AudioError.
        progress: told the seconds of audio done, of all files opened so far.
        stop: asked between the calls of the model; Cancelled is raised once it says True.
    """
    call = Call(engine, options, n_lanes=options.batch_size, stop=stop)

    def open_file(audio: Audio) -> _Begun:
        heard = hear(audio)
        file = FileTranscript(
            call, engine.tokenizer, heard.features, options, engine.spec, heard.speech
        )
        return _Begun(heard.features, file, file.seconds_done)

    files = _Files(audios, open_file)
    coming = files.parts()
    with call:
        while True:
            while call.has_room and (part := next(coming, None)) is not None:
                call.add(part)
            event = call.take()
            if event is None:
                break
            files.take(event)
            progress(files.progress())
            yield from files.ready()
        yield from files.ready()


class _Files:
    """Files from when they are opened to when they are given back."""

    def __init__(self, audios: Iterable[Audio], open_file: Callable[[Audio], _Begun]) -> None:
        self._audios = audios
        self._open_file = open_file
        self._opened: deque[_Begun | AudioError] = deque()
        self._of_part: dict[int, _Begun] = {}
        self._seconds_given = 0.0

    def parts(self) -> Iterator[Part]:
        """What to decode; the next file is opened when all parts of the last one are taken."""
        for audio in self._audios:
            try:
                begun = self._open_file(audio)
            except AudioError as error:
                self._opened.append(error)
                continue
            self._opened.append(begun)
            for part in begun.file.parts:
                if begun.error is not None:
                    break
                self._of_part[id(part)] = begun
                yield part

    def take(self, event: Decoded | Failed) -> None:
        """Take what the engine says of a part."""
        begun = self._of_part[id(event.part)]
        if isinstance(event, Failed):
            begun.error = begun.error or event.error
        else:
            begun.file.take(event)
        begun.seconds_done = begun.file.seconds_done
        if isinstance(event, Failed) or event.ends_part:
            del self._of_part[id(event.part)]

    def ready(self) -> Iterator[Transcript | AudioError]:
        """The files that are next in order and done; they are let go."""
        while self._opened:
            first = self._opened[0]
            if isinstance(first, AudioError):
                yield first
            elif first.error is not None or first.file.is_done:
                self._seconds_given += first.file.duration
                first.features.close()
                yield first.error or first.file.transcript()
            else:
                return
            self._opened.popleft()

    def progress(self) -> ProgressEvent:
        """Seconds done of all files opened so far; those given back are done."""
        begun = [each for each in self._opened if isinstance(each, _Begun)]
        done = self._seconds_given + sum(each.seconds_done for each in begun)
        total = self._seconds_given + sum(each.file.duration for each in begun)
        return ProgressEvent("transcribe", done, total, "seconds")
