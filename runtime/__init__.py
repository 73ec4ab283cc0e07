"""The runtime: loads what `mwc convert` wrote and turns audio into text.

from mwc.runtime import load
model = load("out/")
print(model.transcribe("audio.wav").text)
"""

from mwc.runtime.errors import (
    ArtifactError,
    AudioError,
    BusyError,
    MwcError,
    OptionError,
    TargetError,
)
from mwc.runtime.model import Model, load
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.progress import Progress, ProgressEvent
from mwc.runtime.transcribe import DetectedLanguage
from mwc.runtime.transcript import Segment, Transcript, Word

__all__ = [
    "ArtifactError",
    "AudioError",
    "BusyError",
    "DetectedLanguage",
    "Model",
    "MwcError",
    "OptionError",
    "Progress",
    "ProgressEvent",
    "Segment",
    "TargetError",
    "TranscribeOptions",
    "Transcript",
    "Word",
    "load",
]
