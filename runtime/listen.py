"""A file's first reading: its length, its loudest mel and, where that is needed, its speech."""

from mwc.runtime.audio import AudioSource
from mwc.runtime.decoder import Hearing
from mwc.runtime.errors import Cancelled
from mwc.runtime.features import Features, Float32
from mwc.runtime.progress import Progress, silent
from mwc.runtime.speech import Speech
from mwc.runtime.stop import Stop
from mwc.runtime.vad import SpeechDetector


def listen(
    model: Hearing,
    source: AudioSource,
    detector: str | None,
    progress: Progress = silent,
    stop: Stop = lambda: False,
) -> tuple[Features, Speech | None]:
    """Read a file once.

    Args:
        model: for log-mel frames and the detection of speech.
        source: the file.
        detector: name of the speech detector; None where speech is not asked for.
        progress: told the seconds read.
        stop: asked for each block of samples.

    Raises:
        AudioError: the audio cannot be used.
        Cancelled: `stop` said so.
    """
    found = SpeechDetector(model.vad) if detector is not None else None

    def hear(block: Float32) -> None:
        if stop():
            raise Cancelled("the transcription was cancelled.")
        if found is not None:
            found.add(block)

    features = Features(
        source, model.log_mel, model.spec.model.n_mels, progress=progress, listener=hear
    )
    if found is None or detector is None:
        return features, None
    return features, Speech(detector, found.finish(), features.n_samples)
