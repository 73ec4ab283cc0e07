"""The speech corpus: a folder of clips and `manifest.tsv`, what was said in each."""

import csv
import os
from argparse import ArgumentParser, ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORPUS = Path(os.environ.get("MWC_TEST_AUDIO") or ROOT.parent / "shared" / "audio")
"""Where it lies if nothing else is said."""


@dataclass(frozen=True)
class Clip:
    """One recording.

    Attributes:
        name: its path below the corpus, as in the manifest.
        path: where it lies.
        seconds: how long it is.
        language: code of what is spoken; "" where nobody speaks.
        transcript: what was said.
        group: "short", "long", "multilingual", "nonspeech", by the folder.
    """

    name: str
    path: Path
    seconds: float
    language: str
    transcript: str
    group: str


def read_corpus(folder: Path) -> list[Clip]:
    """Read the manifest, in its order."""
    with open(folder / "manifest.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Clip(
            name=row["path"],
            path=folder / row["path"],
            seconds=float(row["seconds"]),
            language=row["language"],
            transcript=row["transcript"],
            group=row["path"].split("/")[0],
        )
        for row in rows
    ]


def add_corpus(parser: ArgumentParser) -> None:
    """Add --corpus, the Path of a folder with a corpus in it."""
    parser.add_argument(
        "--corpus",
        type=corpus_folder,
        default=str(CORPUS),  # a str, as those are checked too
        help="the folder with manifest.tsv",
    )


def corpus_folder(given: str) -> Path:
    """The folder, if there is a corpus in it."""
    folder = Path(given)
    if not (folder / "manifest.tsv").is_file():
        raise ArgumentTypeError(f"there is no corpus in {folder}; give --corpus or MWC_TEST_AUDIO")
    return folder


def english(clips: list[Clip]) -> list[Clip]:
    """Every English recording that is not put together from others of the corpus."""
    return [clip for clip in clips if clip.language == "en" and "synthetic" not in clip.name]


def other_languages(clips: list[Clip]) -> list[Clip]:
    """Every recording of another language."""
    return [clip for clip in clips if clip.language not in ("", "en")]


def spread(clips: list[Clip], count: int) -> list[Clip]:
    """`count` clips at even distances through the list; all of them if there are fewer."""
    if count >= len(clips):
        return clips
    return [clips[i * len(clips) // count] for i in range(count)]
