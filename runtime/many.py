"""Several files through one engine: lanes that one file leaves idle take parts of the next.

Files are opened as lanes fall free, given back in their order, and then let go.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mwc.runtime.audio import AudioInput, AudioSource
from mwc.runtime.decoder import Decoder
from mwc.runtime.engine import Engine, Failed, Part
from mwc.runtime.errors import AudioError
from mwc.runtime.features import Features
from mwc.runtime.file_transcript import FileTranscript
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.progress import Progress, ProgressEvent
from mwc.runtime.speech import Speech
from mwc.runtime.stop import Stop
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcript import Transcript

Audio = AudioInput | AudioSource


@dataclass(frozen=True)
class HeardFile:
    """A file that was read through once: its log-mel frames and its speech."""

    source: AudioSource
    features: Features
    speech: Speech | None


@dataclass
class _Begun:
    """A file with parts in the engine, or done; `error` is why it has no transcript."""

    source: AudioSource
    file: FileTranscript
    error: AudioError | None = None


def transcribe_together(
    decoder: Decoder,
    tokenizer: Tokenizer,
    options: TranscribeOptions,
    audios: Iterable[Audio],
    hear: Callable[[Audio], HeardFile],
    progress: Progress,
    stop: Stop,
) -> Iterator[Transcript | AudioError]:
    """Transcribe files; each gives its transcript, or the error why there is none, in order.

    Args:
        decoder: the model; its slots from 0 on are used.
        tokenizer: the model's tokenizer.
        options: what is wanted of each file.
        audios: the files, taken when there is room for another.
        hear: reads one through, or raises AudioError.
        progress: told the seconds of audio done, of all files opened so far.
        stop: asked before each call of the model; Cancelled is raised once it says True.
    """
    engine = Engine(
        decoder, tokenizer, options, n_lanes=options.batch_size, listens_aside=True, stop=stop
    )
    opened: deque[_Begun | AudioError] = deque()
    of_part: dict[int, _Begun] = {}
    seconds_given = 0.0

    def parts() -> Iterator[Part]:
        for audio in audios:
            try:
                heard = hear(audio)
                file = FileTranscript(
                    engine, tokenizer, heard.features, options, decoder.spec, heard.speech
                )
            except AudioError as error:
                opened.append(error)
                continue
            begun = _Begun(heard.source, file)
            opened.append(begun)
            for part in file.parts:
                if begun.error is not None:
                    break
                of_part[id(part)] = begun
                yield part

    def ready() -> Iterator[Transcript | AudioError]:
        """The files that are next in order and done."""
        nonlocal seconds_given
        while opened:
            first = opened[0]
            if isinstance(first, AudioError):
                yield first
            elif first.error is not None:
                seconds_given += first.file.duration
                yield first.error
            elif first.file.is_done:
                seconds_given += first.file.duration
                yield first.file.transcript(tuple(first.source.warnings))
            else:
                return
            opened.popleft()

    for event in engine.run(parts()):
        begun = of_part[id(event.part)]
        if isinstance(event, Failed):
            begun.error = begun.error or event.error
        else:
            begun.file.take(event)
        if isinstance(event, Failed) or event.ends_part:
            del of_part[id(event.part)]
        progress(_progress(seconds_given, opened))
        yield from ready()
    yield from ready()


def _progress(seconds_given: float, opened: Iterable[_Begun | AudioError]) -> ProgressEvent:
    """Seconds done of all files opened so far; those given back are done."""
    files = [each.file for each in opened if isinstance(each, _Begun)]
    done = seconds_given + sum(file.seconds_done for file in files)
    total = seconds_given + sum(file.duration for file in files)
    return ProgressEvent("transcribe", done, total, "seconds")
