"""Several files through one engine: lanes that one file leaves idle take parts of the next.

Files are opened as lanes fall free, and given back in their order.
"""

from collections.abc import Callable, Iterable, Iterator

from mwc.runtime.audio import AudioSource
from mwc.runtime.decoder import Decoder
from mwc.runtime.engine import Engine, Part, Stop
from mwc.runtime.errors import AudioError
from mwc.runtime.features import Features
from mwc.runtime.file_transcript import FileTranscript
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.progress import Progress, ProgressEvent
from mwc.runtime.speech import Speech
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcript import Transcript

Opener = Callable[[], AudioSource]
"""Opens a file, or raises AudioError."""

Listener = Callable[[AudioSource], tuple[Features, Speech | None]]
"""Reads a file through once: its log-mel frames and its speech."""


def transcribe_together(
    decoder: Decoder,
    tokenizer: Tokenizer,
    options: TranscribeOptions,
    openers: Iterable[Opener],
    listen: Listener,
    progress: Progress,
    stop: Stop,
) -> Iterator[Transcript | AudioError]:
    """Transcribe files; each gives its transcript, or the error why there is none, in order.

    Args:
        decoder: the model; its slots from 0 on are used.
        tokenizer: the model's tokenizer.
        options: what is wanted of each file.
        openers: the files, taken when there is room for another.
        listen: reads one.
        progress: told the seconds of audio done, of all files opened so far.
        stop: asked before each call of the model; Cancelled is raised once it says True.
    """
    engine = Engine(
        decoder, tokenizer, options, n_lanes=options.batch_size, listens_aside=True, stop=stop
    )
    files: list[_File] = []
    of_part: dict[int, _File] = {}

    def parts() -> Iterator[Part]:
        for opener in openers:
            files.append(file := _File())
            try:
                source = opener()
                features, speech = listen(source)
                begun = FileTranscript(engine, tokenizer, features, options, decoder.spec, speech)
            except AudioError as error:
                file.error = error
                continue
            file.begun, file.source = begun, source
            of_part.update(dict.fromkeys(map(id, begun.parts), file))
            yield from begun.parts

    n_given = 0
    for decoded in engine.run(parts()):
        begun = of_part[id(decoded.part)].begun
        assert begun is not None
        begun.take(decoded)
        progress(_progress(files))
        while n_given < len(files) and files[n_given].is_done:
            yield files[n_given].outcome()
            n_given += 1
    for file in files[n_given:]:
        yield file.outcome()


class _File:
    """A file whose turn has come: what it came to so far, or why it cannot be used."""

    begun: FileTranscript | None = None
    source: AudioSource | None = None
    error: AudioError | None = None

    @property
    def is_done(self) -> bool:
        return self.error is not None or (self.begun is not None and self.begun.is_done)

    def outcome(self) -> Transcript | AudioError:
        if self.begun is None or self.source is None:
            assert self.error is not None
            return self.error
        return self.begun.transcript(tuple(self.source.warnings))


def _progress(files: list[_File]) -> ProgressEvent:
    begun = [file.begun for file in files if file.begun is not None]
    done, total = sum(f.seconds_done for f in begun), sum(f.duration for f in begun)
    return ProgressEvent("transcribe", done, total, "seconds")
