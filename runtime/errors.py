"""Every error mwc raises on purpose, in one tree.

    MwcError
    ├── OptionError          an option is unknown, out of range, or conflicts with another
    ├── AudioError           a file or array cannot be used as audio
    ├── CheckpointError      a source cannot be found, read or understood
    │   ├── UnsupportedModel     it is readable, but not a Whisper that mwc can compile
    │   └── WeightMismatch       its tensors do not fit its configuration
    ├── CompileError         MAX could not compile the graphs for a target
    ├── ArtifactError        an artifact is missing, damaged, or of another format or version
    │   └── TargetError          it is sound, but not for this machine or device
    ├── VerificationError    an artifact does not compute what its checkpoint computes
    ├── OutputError          a transcript was made, but its file cannot be written
    ├── MemoryShortage       what is asked for does not fit into the memory that is free
    ├── DeviceError          a CPU or GPU failed while it ran a graph
    ├── BusyError            a model or fleet is called by what it is waiting for
    └── Cancelled            a transcription was stopped by its caller

A message is one sentence (or one per problem found) that names what was wrong with its value, what
is allowed, and what to do. The command line prints it as it is; `--debug` adds the traceback.
"""

import re
from typing import Any


class MwcError(Exception):
    """Base of every error mwc raises on purpose; its text is meant for the user."""


class OptionError(MwcError):
    """An option is unknown, out of range, or conflicts with another."""


class AudioError(MwcError):
    """A file or array cannot be used as audio."""


class CheckpointError(MwcError):
    """A checkpoint source cannot be found, read or understood."""


class UnsupportedModel(CheckpointError):
    """A checkpoint is readable, but not a Whisper that mwc can compile."""


class WeightMismatch(CheckpointError):
    """A checkpoint's tensors do not fit its configuration."""


class CompileError(MwcError):
    """MAX could not compile the graphs for a target."""


class ArtifactError(MwcError):
    """An artifact is missing, damaged, or of another format or version."""


class TargetError(ArtifactError):
    """An artifact is sound, but holds nothing for this machine or device."""


class VerificationError(MwcError):
    """An artifact does not compute what its checkpoint computes."""


class OutputError(MwcError):
    """A transcript was made, but its file cannot be written."""


class MemoryShortage(MwcError):
    """What is asked for does not fit into the memory that is free; nothing was taken."""


class DeviceError(MwcError):
    """A CPU or GPU failed while it ran a graph; the model that ran there is of no more use."""


class BusyError(MwcError):
    """A model or fleet is called by something that it is waiting for itself."""


class Cancelled(MwcError):
    """A transcription was stopped by its caller.

    Attributes:
        transcript: what was done by then, a `mwc.runtime.Transcript`; None if nothing was begun.
    """

    transcript: Any = None


LINE = 200
"""Characters of a library's words that are repeated."""


def first_line(error: BaseException) -> str:
    """What a library says of an error, without the trace that MAX adds; at worst its kind."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0] if len(lines[0]) <= LINE else f"{lines[0][: LINE - 1]}…"


def readable(text: str) -> str:
    """Text for one line of a terminal: what of a file's name is no UTF-8 or no sign becomes "?"."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", text.encode("utf-8", "replace").decode("utf-8"))
