"""The files a transcript can be written to, one writer for each format."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from mwc.runtime.errors import OptionError
from mwc.runtime.transcript import Transcript
from mwc.runtime.writers.media import audio_url
from mwc.runtime.writers.options import LAYOUT, WriteOptions, make_write_options
from mwc.runtime.writers.page import write_html
from mwc.runtime.writers.plain import write_csv, write_json, write_tsv, write_txt
from mwc.runtime.writers.subtitles import write_lrc, write_srt, write_vtt

__all__ = [
    "LAYOUT",
    "LAYOUT_FORMATS",
    "WRITERS",
    "WriteOptions",
    "audio_url",
    "make_write_options",
    "render",
    "write_file",
]

Writer = Callable[[Transcript, TextIO, WriteOptions], None]

WRITERS: dict[str, Writer] = {
    "txt": write_txt,
    "srt": write_srt,
    "vtt": write_vtt,
    "tsv": write_tsv,
    "json": write_json,
    "lrc": write_lrc,
    "csv": write_csv,
    "html": write_html,
}
"""What writes each format, by its name and file suffix."""

LAYOUT_FORMATS = {name: ("srt", "vtt") for name in LAYOUT} | {
    "highlight_words": ("srt", "vtt", "lrc")
}
"""The formats that each subtitle option changes."""


def render(format_name: str, transcript: Transcript, options: WriteOptions) -> str:
    """Return what a file of that format holds.

    Raises:
        OptionError: a subtitle option that the format or the transcript does not allow.
    """
    for name in options.layout:
        if format_name not in LAYOUT_FORMATS[name]:
            formats = " and ".join(LAYOUT_FORMATS[name])
            raise OptionError(f"{name} changes {formats} only, not {format_name}; leave it out.")
    file = io.StringIO()
    WRITERS[format_name](transcript, file, options)
    return file.getvalue()


def write_file(
    path: Path, format_name: str, transcript: Transcript, options: WriteOptions | None = None
) -> None:
    """Write a UTF-8 file that is complete or not there; one that was there is replaced at the end.

    Raises:
        OptionError: a subtitle option, but no word times.
        OSError: it cannot be written.
    """
    partial = path.with_name(f".mwc-partial-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            WRITERS[format_name](transcript, file, options or WriteOptions())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
