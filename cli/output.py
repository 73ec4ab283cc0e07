"""Where transcripts go: stdout, or one file per audio and format in a folder."""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mwc.runtime.errors import OptionError

if TYPE_CHECKING:
    from mwc.runtime import Segment, Transcript

STDIN_NAME = "stdin"
_LATER = frozenset({"srt", "vtt", "tsv"})


@dataclass(frozen=True)
class Output:
    """How the transcripts of one command are written.

    Attributes:
        formats: names in `mwc.runtime.transcript.WRITERS`; one, unless there is a folder.
        folder: where files go, or None for stdout.
        several: whether there is more than one audio, so that stdout must tell them apart.
    """

    formats: tuple[str, ...]
    folder: Path | None
    several: bool

    @property
    def streams(self) -> bool:
        """Whether each segment can be printed as soon as it is decoded."""
        return self.folder is None and self.formats == ("txt",)

    def begin(self, name: str) -> None:
        """Print which audio the lines that follow belong to, where there are several."""
        if self.several and self.streams:
            print(f"==> {name} <==", flush=True)

    def print_segment(self, segment: "Segment") -> None:
        """Print one segment's text on a line, at once."""
        print(segment.text.strip(), flush=True)

    def write(self, name: str, transcript: "Transcript") -> None:
        """Write a whole transcript: to stdout, or to `folder/<audio's stem>.<format>`.

        Several transcripts on stdout are JSON Lines, each with its audio's name first. A file is
        complete or not there.
        """
        if self.folder is None:
            _print_json(name if self.several else None, transcript)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for format_name in self.formats:
            _write_file(self.folder / f"{stem(name)}.{format_name}", format_name, transcript)


def plan_output(audio: Sequence[str], format_name: str, folder: Path | None) -> Output:
    """Decide where transcripts go, and refuse what cannot work before any is made.

    Raises:
        OptionError: an unknown format; `all` without a folder; two audios of one name.
    """
    from mwc.runtime.transcript import WRITERS

    known = ", ".join(sorted(WRITERS))
    if format_name in _LATER - set(WRITERS):
        raise OptionError(
            f"mwc 0.1 does not write {format_name}; --output-format is one of {known}"
        )
    if format_name != "all" and format_name not in WRITERS:
        raise OptionError(f"--output-format is one of {known} or all, not {format_name!r}")
    if folder is None and format_name == "all":
        raise OptionError("--output-format all writes several files, so it needs --output-dir DIR")
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise OptionError(f"--output-dir must be a folder, and {str(folder)!r} is a file")
        _refuse_same_names(audio)
    formats = tuple(sorted(WRITERS)) if format_name == "all" else (format_name,)
    return Output(formats, folder, several=len(audio) > 1)


def stem(name: str) -> str:
    """What an audio's files are called: "talk" for "a/talk.mp3", "stdin" for "-"."""
    return STDIN_NAME if name == "-" else Path(name).stem


def _refuse_same_names(audio: Sequence[str]) -> None:
    twice = sorted(name for name, count in Counter(map(stem, audio)).items() if count > 1)
    if twice:
        raise OptionError(
            f"several inputs would be written to the same file ({', '.join(twice)}): rename them "
            "or run them into different folders"
        )


def _print_json(name: str | None, transcript: "Transcript") -> None:
    from mwc.runtime.transcript import write_json

    if name is None:
        write_json(transcript, sys.stdout)
    else:
        print(json.dumps({"audio": name, **transcript.to_dict()}))
    sys.stdout.flush()


def _write_file(path: Path, format_name: str, transcript: "Transcript") -> None:
    from mwc.runtime.transcript import WRITERS

    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            WRITERS[format_name](transcript, file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
