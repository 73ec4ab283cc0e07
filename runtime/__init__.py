"""The runtime: loads what `mwc convert` wrote and turns audio into text.

from mwc.runtime import load
model = load("out/")
print(model.transcribe("audio.wav").text)
"""

from mwc.runtime.detect import DetectedLanguage
from mwc.runtime.errors import (
    ArtifactError,
    AudioError,
    BusyError,
    Cancelled,
    DeviceError,
    MemoryShortage,
    MwcError,
    OptionError,
    TargetError,
)
from mwc.runtime.fleet import Fleet, load_fleet
from mwc.runtime.model import Model, load
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.progress import Progress, ProgressEvent
from mwc.runtime.report import Attempt, Coverage, WindowReport
from mwc.runtime.stream import Stream
from mwc.runtime.transcript import Segment, Transcript, Word
from mwc.runtime.vad import VadOptions

__all__ = [
    "ArtifactError",
    "Attempt",
    "AudioError",
    "BusyError",
    "Cancelled",
    "Coverage",
    "DetectedLanguage",
    "DeviceError",
    "Fleet",
    "MemoryShortage",
    "Model",
    "MwcError",
    "OptionError",
    "Progress",
    "ProgressEvent",
    "Segment",
    "Stream",
    "TargetError",
    "TranscribeOptions",
    "Transcript",
    "VadOptions",
    "WindowReport",
    "Word",
    "load",
    "load_fleet",
]
