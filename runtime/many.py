"""Several files through one engine: lanes that one file leaves idle take parts of the next.

Files are heard as lanes fall free, a few ahead where that helps, given back as soon as they are
done, and then let go.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from mwc.runtime.audio import AudioInput, AudioSource
from mwc.runtime.call import Call
from mwc.runtime.closing import Closing
from mwc.runtime.completed import Completed
from mwc.runtime.engine import Engine
from mwc.runtime.errors import AudioError
from mwc.runtime.features import Features
from mwc.runtime.file_transcript import FileTranscript
from mwc.runtime.hear_ahead import HearAhead
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.progress import Progress, ProgressEvent
from mwc.runtime.speech import Speech
from mwc.runtime.stop import Stop
from mwc.runtime.work import Decoded, Failed, Part

Audio = AudioInput | AudioSource


@dataclass(frozen=True)
class HeardFile:
    """A file that was read through once: its log-mel frames and its speech."""

    features: Features
    speech: Speech | None


@dataclass
class _Begun:
    """A file with parts in the engine, or to come; `error` is why it has no transcript."""

    number: int
    features: Features
    file: FileTranscript
    seconds_done: float
    n_under_way: int = 0
    error: AudioError | None = None

    @property
    def is_done(self) -> bool:
        return not self.n_under_way and (self.error is not None or self.file.is_done)


def transcribe_together(
    engine: Engine,
    options: TranscribeOptions,
    audios: Iterable[Audio],
    hear: Callable[[Audio, Stop], HeardFile],
    progress: Progress,
    stop: Stop,
) -> Generator[Completed, None, None]:
    """Transcribe files; each gives its number and transcript, or why it has none, once it is done.

    Args:
        engine: the model's.
        options: what is wanted of each file.
        audios: the files, taken when there is room for another, or for one to be heard ahead.
        hear: reads one through, or raises AudioError; on a GPU in other threads too.
        progress: told the seconds of audio done, of all files opened so far.
        stop: asked between the calls of the model; Cancelled is raised once it says True.
    """
    call = Call(engine, options, n_lanes=options.batch_size, stop=stop)

    def begin(number: int, heard: HeardFile) -> _Begun:
        file = FileTranscript(
            call, engine.tokenizer, heard.features, options, engine.spec, heard.speech
        )
        return _Begun(number, heard.features, file, file.seconds_done)

    heard = HearAhead(audios, hear, engine.heard_ahead, stop)
    with call, heard, _Files(heard, begin) as files:
        coming = files.parts(is_patient=lambda: call.is_idle)
        while True:
            while call.has_room and (part := next(coming, None)) is not None:
                call.add(part)
            event = call.take(unless=lambda: call.has_room and heard.is_next_here)
            if event is not None:
                files.take(event)
                progress(files.progress())
            yield from files.done()
            if event is None and call.is_idle:
                return


class _Files(Closing):
    """Files from when they were heard to when they are given back."""

    def __init__(
        self, heard: HearAhead[Audio, HeardFile], begin: Callable[[int, HeardFile], _Begun]
    ) -> None:
        self._heard = heard
        self._begin = begin
        self._opened: dict[int, _Begun] = {}
        self._of_part: dict[int, _Begun] = {}
        self._done: list[Completed] = []
        self._seconds_given = 0.0

    def parts(self, is_patient: Callable[[], bool]) -> Iterator[Part | None]:
        """What to decode; the next file begins when all parts of the last one are taken.

        While it is late there are Nones, unless `is_patient` says that there is nothing else to do.
        """
        for number in count():
            while not is_patient() and self._heard.is_next_late():
                yield None
            heard = next(self._heard, None)
            if heard is None:
                return
            if isinstance(heard, AudioError):
                self._done.append((number, heard))
                continue
            try:
                begun = self._begin(number, heard)
            except AudioError as error:
                heard.features.close()
                self._done.append((number, error))
                continue
            self._opened[number] = begun
            for part in begun.file.parts:
                if begun.error is not None:
                    break
                self._of_part[id(part)] = begun
                begun.n_under_way += 1
                yield part
            self._give_if_done(begun)

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
            begun.n_under_way -= 1
            self._give_if_done(begun)

    def done(self) -> Iterator[Completed]:
        """The files that are done and were not given yet."""
        while self._done:
            yield self._done.pop(0)

    def progress(self) -> ProgressEvent:
        """Seconds done of all files opened so far; those given back are done."""
        opened = self._opened.values()
        done = self._seconds_given + sum(begun.seconds_done for begun in opened)
        total = self._seconds_given + sum(begun.file.duration for begun in opened)
        return ProgressEvent("transcribe", done, total, "seconds")

    def close(self) -> None:
        """Let go of the files that are not done."""
        for begun in self._opened.values():
            begun.features.close()
        self._opened.clear()

    def _give_if_done(self, begun: _Begun) -> None:
        if begun.number not in self._opened or not begun.is_done:
            return
        del self._opened[begun.number]
        self._seconds_given += begun.file.duration
        begun.features.close()
        self._done.append((begun.number, begun.error or begun.file.transcript()))
