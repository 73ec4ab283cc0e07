"""Several files through one engine: lanes that one file leaves idle take parts of the next.

Files are heard as lanes fall free, a few ahead where that helps, given back in their order, and
then let go.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from mwc.runtime.audio import AudioInput, AudioSource
from mwc.runtime.call import Call
from mwc.runtime.engine import Engine
from mwc.runtime.errors import AudioError
from mwc.runtime.features import Features
from mwc.runtime.file_transcript import FileTranscript
from mwc.runtime.hear_ahead import hear_ahead
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
    hear: Callable[[Audio, Stop], HeardFile],
    progress: Progress,
    stop: Stop,
) -> Iterator[Transcript | AudioError]:
    """Transcribe files; each gives its transcript, or the error why there is none, in order.

    Args:
        engine: the model's.
        options: what is wanted of each file.
        audios: the files, taken when there is room for another, or for one to be heard ahead.
        hear: reads one through, or raises AudioError; on a GPU in other threads too.
        progress: told the seconds of audio done, of all files opened so far.
        stop: asked between the calls of the model; Cancelled is raised once it says True.
    """
    call = Call(engine, options, n_lanes=options.batch_size, stop=stop)

    def begin(heard: HeardFile) -> _Begun:
        file = FileTranscript(
            call, engine.tokenizer, heard.features, options, engine.spec, heard.speech
        )
        return _Begun(heard.features, file, file.seconds_done)

    heard = hear_ahead(audios, hear, engine.heard_ahead, stop)
    files = _Files(heard, begin)
    coming = files.parts()
    with call, closing(heard):
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
    """Files from when they were heard to when they are given back."""

    def __init__(
        self, heard: Iterable[HeardFile | AudioError], begin: Callable[[HeardFile], _Begun]
    ) -> None:
        self._heard = heard
        self._begin = begin
        self._opened: deque[_Begun | AudioError] = deque()
        self._of_part: dict[int, _Begun] = {}
        self._seconds_given = 0.0

    def parts(self) -> Iterator[Part]:
        """What to decode; the next file begins when all parts of the last one are taken."""
        for heard in self._heard:
            if isinstance(heard, AudioError):
                self._opened.append(heard)
                continue
            try:
                begun = self._begin(heard)
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
