"""Where transcripts go: stdout, or one file per audio and format in a folder."""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mwc.runtime.disk import NO_ROOM, how_to_make_room
from mwc.runtime.errors import OptionError, OutputError, readable

if TYPE_CHECKING:
    from mwc.runtime import Segment, Transcript
    from mwc.runtime.writers import WriteOptions

STDIN_NAME = "stdin"
ONE_AFTER_THE_OTHER = ("txt", "json")
"""Formats in which several transcripts on stdout can be told apart."""


@dataclass(frozen=True)
class Output:
    """How the transcripts of one command are written.

    Attributes:
        formats: names in `mwc.runtime.writers.WRITERS`; one, unless there is a folder.
        folder: where files go, or None for stdout.
        several: whether there is more than one audio, so that stdout must tell them apart.
        options: given to the writers; the page's title and audio are set for each audio.
    """

    formats: tuple[str, ...]
    folder: Path | None
    several: bool
    options: "WriteOptions"

    @property
    def streams(self) -> bool:
        """Whether each segment can be printed as soon as it is decoded."""
        return self.folder is None and self.formats == ("txt",)

    def begin(self, name: str) -> None:
        """Print which audio the lines that follow belong to, where there are several."""
        if self.several and self.streams:
            print(f"==> {readable(name)} <==", flush=True)

    def print_segment(self, segment: "Segment") -> None:
        """Print one segment's text on a line, at once."""
        print(segment.text.strip(), flush=True)

    def is_written(self, name: str) -> bool:
        """Whether an audio's files are all in the folder, none older than the audio."""
        audio = Path(name)
        if self.folder is None or name == "-" or not audio.is_file():
            return False
        paths = [self.folder / f"{stem(name)}.{format_name}" for format_name in self.formats]
        since = audio.stat().st_mtime
        return all(path.is_file() and path.stat().st_mtime >= since for path in paths)

    def write(self, name: str, transcript: "Transcript") -> None:
        """Write a whole transcript: to stdout, or to `folder/<audio's stem>.<format>`.

        Several transcripts on stdout are JSON Lines, each with its audio's name first. A file is
        complete or not there.

        Raises:
            OutputError: a file cannot be written; the text has gone to stdout instead.
        """
        if self.folder is None and self.several:
            print(json.dumps({"audio": name, **transcript.to_dict()}), flush=True)
            return
        from mwc.runtime.writers import WRITERS, WriteOptions, write_file

        if self.folder is None:
            (format_name,) = self.formats
            options = self._options_for(format_name, name, Path())
            WRITERS[format_name](transcript, sys.stdout, options)
            sys.stdout.flush()
            return
        path = self.folder
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for format_name in self.formats:
                path = self.folder / f"{stem(name)}.{format_name}"
                options = self._options_for(format_name, name, self.folder)
                write_file(path, format_name, transcript, options)
        except OSError as error:
            WRITERS["txt"](transcript, sys.stdout, WriteOptions())
            sys.stdout.flush()
            reason, advice = error.strerror or str(error), "choose another --output-dir"
            if error.filename == name:  # the page wants the audio, and it has gone
                reason, advice = f"{reason}: {name}", "leave the audio there until it is done"
            elif error.errno in NO_ROOM:
                advice = f"{how_to_make_room(error)}, or {advice}"
            raise OutputError(
                f"{path} cannot be written ({reason}), so the text of {name} went to standard "
                f"output; {advice}"
            ) from error

    def _options_for(self, format_name: str, name: str, folder: Path) -> "WriteOptions":
        """A writer's options for one audio; a page in `folder` plays it unless it was piped."""
        if format_name != "html":
            return self.options
        from mwc.runtime.writers import audio_url

        piped = name == "-"
        url = None if piped else audio_url(name, folder)
        return replace(self.options, audio=url, title=STDIN_NAME if piped else Path(name).name)


def plan_output(
    audio: Sequence[str],
    names: Sequence[str],
    folder: Path | None,
    options: "WriteOptions | None" = None,
) -> Output:
    """Decide where transcripts go, and refuse what cannot work before any is made.

    `names` are formats, or "all" for each.

    Raises:
        OptionError: an unknown format; some that need a folder, without one; a folder that cannot
            be written to; two audios of one name; an audio that a file would replace; standard
            input twice; a subtitle option for a format without lines.
    """
    from mwc.runtime.writers import WRITERS, WriteOptions

    options = options or WriteOptions()
    for name in names:
        if name != "all" and name not in WRITERS:
            known = ", ".join(WRITERS)
            raise OptionError(f"--output-format is one of {known} or all, not {name!r}")
    formats = tuple(WRITERS) if "all" in names else tuple(dict.fromkeys(names))
    _refuse_layout(formats, options)
    if folder is None and len(formats) > 1:
        word = "all" if "all" in names else " and ".join(formats)
        raise OptionError(
            f"--output-format {word} writes several files, so it needs --output-dir DIR"
        )
    if folder is None and len(audio) > 1 and formats[0] not in ONE_AFTER_THE_OTHER:
        raise OptionError(
            f"--output-format {formats[0]} of several inputs needs --output-dir DIR, since stdout "
            f"can hold one; {' and '.join(ONE_AFTER_THE_OTHER)} can follow one another there"
        )
    if audio.count("-") > 1:
        raise OptionError("- is named twice, and standard input can be read once")
    if folder is not None:
        _refuse_folder(folder)
        _refuse_same_names(audio)
        _refuse_inputs(audio, folder, formats)
    return Output(formats, folder, several=len(audio) > 1, options=options)


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


def _refuse_inputs(audio: Sequence[str], folder: Path, formats: Sequence[str]) -> None:
    """Refuse to put a transcript in an input's place."""
    inputs = [Path(name) for name in audio if name != "-" and os.path.isfile(name)]
    for path in (folder / f"{stem(name)}.{kind}" for name in audio for kind in formats):
        if path.exists() and any(path.samefile(given) for given in inputs):
            raise OptionError(
                f"{str(path)!r} is to be read, and a transcript would take its place; choose "
                "another --output-dir"
            )


def _refuse_folder(folder: Path) -> None:
    """Refuse a folder that is a file or an artifact, or that this process may not write to."""
    if (folder / "manifest.json").is_file() and (folder / "targets").is_dir():
        raise OptionError(f"--output-dir {str(folder)!r} is an artifact; choose another folder")
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"--output-dir must be a folder, and {str(folder)!r} is a file")
    if folder.is_symlink() and not folder.exists():
        raise OptionError(f"--output-dir {str(folder)!r} is a link to nothing; name a folder")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OptionError(
            f"--output-dir {str(folder)!r} cannot be written to: {str(there)!r} does not allow it; "
            "choose another folder"
        )


def _refuse_layout(formats: Sequence[str], options: "WriteOptions") -> None:
    from mwc.runtime.writers import LAYOUT_FORMATS

    for name in options.layout:
        changed = LAYOUT_FORMATS[name]
        if not set(changed) & set(formats):
            option = name.replace("_", "-")
            raise OptionError(
                f"--{option} changes {' and '.join(changed)} only; choose one of these with "
                "--output-format, or all"
            )
