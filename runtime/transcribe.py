"""From the log-mel windows of a file to its transcript.

`windows.WindowLoop` decides what is decoded, `engine.Engine` has the model do it, and
`file_transcript.FileTranscript` puts in order what comes of it.

Algorithm: openai/whisper `whisper/transcribe.py`, `transcribe`, and `decoding.py`,
`detect_language`.
"""

from collections.abc import Generator, Iterator
from functools import partial

from mwc.runtime.decoder import Decoder
from mwc.runtime.detect import DetectedLanguage, detect_languages
from mwc.runtime.encoding import EncodedWindow, encode_windows
from mwc.runtime.engine import Engine, Failed
from mwc.runtime.errors import AudioError, Cancelled
from mwc.runtime.features import Features
from mwc.runtime.file_transcript import FileTranscript, beside, language_of
from mwc.runtime.options import TranscribeOptions, check_for_model
from mwc.runtime.progress import Progress, ProgressEvent, silent
from mwc.runtime.speech import Speech
from mwc.runtime.stop import Stop
from mwc.runtime.timing import Aligner
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcript import Segment, Transcript, Word
from mwc.runtime.words import LANGUAGES_WITHOUT_SPACES, add_words

SLOT = 0
"""The window slot, and the row slot, that are used outside of the engine."""


def detect_language(
    decoder: Decoder, features: Features, languages: tuple[str, ...] | None = None
) -> DetectedLanguage:
    """Tell the language from the first 30 s.

    Audio shorter than that counts as followed by silence, as in openai/whisper: all 3000 frames of
    the window are heard.

    Raises:
        OptionError: the model knows English only.
    """
    if decoder.spec.tokens.is_multilingual:
        encode_windows(decoder, [EncodedWindow(SLOT, features, 0, decoder.spec.audio.n_frames)])
    return detect_languages(decoder, [(SLOT, SLOT)], languages)[0]


def transcribe(
    decoder: Decoder,
    tokenizer: Tokenizer,
    features: Features,
    options: TranscribeOptions,
    progress: Progress = silent,
) -> Transcript:
    """Transcribe a file to its end; arguments and errors as for `Transcription`."""
    transcription = Transcription(decoder, tokenizer, features, options, progress=progress)
    for _ in transcription:
        pass
    return transcription.transcript()


class Transcription(Iterator[Segment]):
    """A file on its way to a transcript: an iterator of its segments, in order of time.

    Segments come as soon as their windows are decoded; cleared ones (empty text) are among them.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        features: Features,
        options: TranscribeOptions,
        *,
        speech: Speech | None = None,
        progress: Progress = silent,
        stop: Stop = lambda: False,
    ) -> None:
        """Tell the language and plan what is decoded; nothing is decoded before it is asked for.

        Args:
            decoder: the model; its slots from 0 on are used.
            tokenizer: the model's tokenizer.
            features: the file's log-mel windows.
            options: what is wanted.
            speech: the file's speech; without it words keep the times that alignment gives them,
                and there is no coverage.
            progress: told the seconds of audio done, stage "transcribe".
            stop: asked before each call of the model; Cancelled is raised once it says True.

        Raises:
            OptionError: an option does not suit the model.
            AudioError: a clip starts beyond the audio.
        """
        check_for_model(options, decoder.spec)
        self._progress = progress
        engine = Engine(decoder, tokenizer, options, n_lanes=options.batch_size, stop=stop)
        self._file = FileTranscript(engine, tokenizer, features, options, decoder.spec, speech)
        self._coming = self._in_order(engine)

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

    def transcript(self, warnings: tuple[str, ...] = ()) -> Transcript:
        """The transcript of what has been given so far; `warnings` are the audio's."""
        return self._file.transcript(warnings)

    def _in_order(self, engine: Engine) -> Generator[Segment, None, None]:
        """The segments of all parts in order of time."""
        try:
            for decoded in engine.run(self._file.parts):
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
    decoder: Decoder,
    tokenizer: Tokenizer,
    features: Features,
    text: str,
    options: TranscribeOptions,
    speech: Speech | None = None,
) -> tuple[Word, ...]:
    """Find when each word of a text was said in audio of one window; see `Model.align`.

    The words are those that `transcribe` would give, had it found the text as one segment.
    """
    spec = decoder.spec
    check_for_model(options, spec)
    if features.n_frames > spec.audio.n_frames:
        raise AudioError(
            f"the audio lasts {features.duration:.2f} s; align takes at most "
            f"{spec.audio.chunk_length} s at once, cut it into parts with their texts."
        )
    if features.n_frames < spec.audio.frames_per_token:
        raise AudioError(f"the audio lasts {features.duration:.3f} s; align takes at least 0.02 s.")
    language, _ = language_of(options, spec, partial(detect_language, decoder, features))
    separator = "" if language in LANGUAGES_WITHOUT_SPACES else " "
    tokens = tokenizer.encode(separator + " ".join(text.split())) if text.split() else []
    encode_windows(decoder, [EncodedWindow(SLOT, features, 0, features.n_frames)])
    timings = Aligner(decoder, tokenizer, language).align(tokens, SLOT, features.n_frames)
    segment = Segment(0, 0, 0.0, features.duration, text, tuple(tokens), 0.0, 0.0, 0.0, 0.0)
    eot = spec.tokens.eot
    (segment,) = add_words([segment], timings, eot=eot, offset=0.0, last_speech_end=0.0)
    return beside(speech, segment).words or ()
