"""Text, tables and JSON.

txt, tsv and json are openai/whisper's (`utils.py`: `WriteTXT`, `WriteTSV`, `WriteJSON`), csv is
ggml-org/whisper.cpp's (`examples/cli/cli.cpp`, `output_csv`).
"""

import csv
import json
from typing import TextIO

from mwc.runtime.transcript import Transcript
from mwc.runtime.writers.options import WriteOptions
from mwc.runtime.writers.subtitles import one_line


def write_txt(transcript: Transcript, file: TextIO, options: WriteOptions) -> None:
    """Write the stripped text of each segment on a line of its own."""
    for segment in transcript.segments:
        file.write(segment.text.strip() + "\n")


def write_json(transcript: Transcript, file: TextIO, options: WriteOptions) -> None:
    """Write `Transcript.to_dict` as one line of ASCII JSON."""
    file.write(json.dumps(transcript.to_dict()) + "\n")


def write_tsv(transcript: Transcript, file: TextIO, options: WriteOptions) -> None:
    """Write start and end in milliseconds and the text, tabs between them, under a header."""
    file.write("start\tend\ttext\n")
    for start, end, text in _rows(transcript):
        file.write(f"{start}\t{end}\t" + text.replace("\t", " ") + "\n")


def write_csv(transcript: Transcript, file: TextIO, options: WriteOptions) -> None:
    """Write start and end in milliseconds and the quoted text, under a header."""
    file.write("start,end,text\n")
    rows = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    rows.writerows(_rows(transcript))


def _rows(transcript: Transcript) -> list[tuple[int, int, str]]:
    """Start and end in milliseconds and text on one line, for each segment."""
    return [
        (round(1000 * segment.start), round(1000 * segment.end), one_line(segment.text))
        for segment in transcript.segments
    ]
