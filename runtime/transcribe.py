"""From the log-mel windows of a file to its transcript.

`windows.WindowLoop` decides what is decoded, `engine.Engine` has the model do it, and
`file_transcript.FileTranscript` puts in order what comes of it.

Algorithm: openai/whisper `whisper/transcribe.py`, `transcribe`, and `decoding.py`,
`detect_language`.
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial

from mwc.runtime.call import Call
from mwc.runtime.decoder import Decoder
from mwc.runtime.detect import DetectedLanguage
from mwc.runtime.encoding import EncodedWindow, encode_window
from mwc.runtime.engine import Engine
from mwc.runtime.errors import AudioError, Cancelled
from mwc.runtime.features import Features
from mwc.runtime.file_transcript import FileTranscript, beside, language_of
from mwc.runtime.options import TranscribeOptions, check_for_model
from mwc.runtime.progress import Progress, ProgressEvent, silent
from mwc.runtime.speech import Speech
from mwc.runtime.stop import Stop
from mwc.runtime.timing import Aligner
from mwc.runtime.transcript import Segment, Transcript, Word
from mwc.runtime.words import LANGUAGES_WITHOUT_SPACES, WordTiming, add_words
from mwc.runtime.work import Failed


def detect_language(
    engine: Engine, features: Features, options: TranscribeOptions
) -> DetectedLanguage:
    """Tell the language from the first 30 s; see `Call.detect_language`."""
    with Call(engine, options) as call:
        return call.detect_language(features)


class Transcription(Iterator[Segment]):
    """A file on its way to a transcript: an iterator of its segments, in order of time.

    Segments come as soon as their windows are decoded; cleared ones (empty text) are among them.
    """

    def __init__(
        self,
        engine: Engine,
        features: Features,
        options: TranscribeOptions,
        *,
        speech: Speech | None = None,
        progress: Progress = silent,
        stop: Stop = lambda: False,
    ) -> None:
        """Tell the language and plan what is decoded; nothing is decoded before it is asked for.

        Args:
            engine: the model's.
            features: the file's log-mel windows.
            options: what is wanted.
            speech: the file's speech; without it words keep the times that alignment gives them,
                and there is no coverage.
            progress: told the seconds of audio done, stage "transcribe".
            stop: asked between the calls of the model; Cancelled is raised once it says True.

        Raises:
            OptionError: an option does not suit the model.
            AudioError: a clip starts beyond the audio.
        """
        check_for_model(options, engine.spec)
        self._progress = progress
        self._features = features
        self._call = Call(engine, options, n_lanes=options.batch_size, stop=stop)
        self._file = FileTranscript(
            self._call, engine.tokenizer, features, options, engine.spec, speech
        )
        self._coming = self._in_order()

    def __next__(self) -> Segment:
        return next(self._coming)

    @property
    def language(self) -> str:
        """Code of the file's language."""
        return self._file.language

    @property
    def duration(self) -> float:
        """Seconds of audio."""
        return self._file.duration

    def close(self) -> None:
        """Stop here."""
        self._coming.close()

    def transcript(self) -> Transcript:
        """The transcript of what has been given so far."""
        return self._file.transcript()

    def _in_order(self) -> Generator[Segment, None, None]:
        """The segments of all parts in order of time."""
        with closing(self._features), self._call as call:
            for part in self._file.parts:
                call.add(part)
            try:
                while (decoded := call.take()) is not None:
                    if isinstance(decoded, Failed):
                        raise decoded.error
                    segments = self._file.take(decoded)
                    done, total = self._file.seconds_done, self._file.duration
                    self._progress(ProgressEvent("transcribe", done, total, "seconds"))
                    yield from segments
            except Cancelled as error:
                self._file.take_what_waits()
                error.transcript = self.transcript()
                raise


def align(
    engine: Engine,
    features: Features,
    text: str,
    options: TranscribeOptions,
    speech: Speech | None = None,
) -> tuple[Word, ...]:
    """Find when each word of a text was said in audio of one window; see `Model.align`.

    The words are those that a `Transcription` would give, had it found the text as one segment.
    """
    spec, tokenizer = engine.spec, engine.tokenizer
    check_for_model(options, spec)
    if features.n_frames > spec.audio.n_frames:
        raise AudioError(
            f"the audio lasts {features.duration:.2f} s; align takes at most "
            f"{spec.audio.chunk_length} s at once, cut it into parts with their texts."
        )
    if features.n_frames < spec.audio.frames_per_token:
        raise AudioError(f"the audio lasts {features.duration:.3f} s; align takes at least 0.02 s.")
    language, _ = language_of(options, spec, partial(detect_language, engine, features, options))
    separator = "" if language in LANGUAGES_WITHOUT_SPACES else " "
    tokens = tokenizer.encode(separator + " ".join(text.split())) if text.split() else []

    def find(decoder: Decoder, slot: int, row: int) -> list[WordTiming]:
        encode_window(decoder, EncodedWindow(slot, features, 0, features.n_frames))
        aligner = Aligner(decoder, tokenizer, language)
        return aligner.align(tokens, slot, features.n_frames, row)

    with Call(engine, options) as call:
        timings = call.in_slot(find)
    segment = Segment(0, 0, 0.0, features.duration, text, tuple(tokens), 0.0, 0.0, 0.0, 0.0)
    eot = spec.tokens.eot
    (segment,) = add_words([segment], timings, eot=eot, offset=0.0, last_speech_end=0.0)
    return beside(speech, segment).words or ()
