"""`convert --calibrate`: the word error rate of a new artifact on recordings of the user's own.

What int8 costs in words cannot be told from logits: it depends on the speech. So the artifact
transcribes it before it is put in place, and records how often it was wrong.
"""

import csv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mwc.compiler.word_errors import WordErrors, normaliser, word_errors
from mwc.runtime.artifact import Artifact
from mwc.runtime.errors import AudioError, OptionError
from mwc.runtime.progress import Progress, ProgressEvent, silent

COLUMNS = ("path", "transcript")
"""What a manifest has to say of a recording; "language" may stand beside them."""

PACKAGES = {"jiwer": "jiwer", "whisper_normalizer": "whisper-normalizer"}
"""Modules that count word errors, and the packages that bring them."""


@dataclass(frozen=True)
class Recording:
    """One line of a manifest.

    Attributes:
        path: the audio file.
        transcript: what is said in it.
        language: its code; None to have it detected.
    """

    path: Path
    transcript: str
    language: str | None


@dataclass(frozen=True)
class Calibration:
    """Errors on the recordings of one language.

    Attributes:
        language: its code, as stated or detected.
        recordings: how many there are.
        errors: of all of them together; in a language without spaces, of characters.
        rate: errors per reference word.
    """

    language: str
    recordings: int
    errors: WordErrors
    rate: float

    def summary(self) -> str:
        """One line for people."""
        return (
            f"word error rate {100 * self.rate:.2f} % in {self.language} "
            f"({self.recordings} recordings, {self.errors.words} words)"
        )


def read_recordings(path: str | Path) -> tuple[Recording, ...]:
    """Read a manifest: a table of recordings, columns apart by tabs, the first line their names.

    Paths are relative to the manifest. Recordings without a word in their transcript are left out.

    Raises:
        OptionError: it cannot be read, lacks a column, names a file that is not there, or states
            no transcript at all.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            rows = list(table)
            columns = table.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(
            f"the manifest {path} cannot be read ({reason}); --calibrate wants a text file with a "
            "tab between columns."
        ) from error
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise OptionError(
            f"the manifest {path} has no column {' and '.join(missing)}, only "
            f"{', '.join(columns) or 'nothing'}; its first line names its columns, with a tab "
            "between: path, transcript, and language if you like."
        )
    rows = [row for row in rows if _has_words(row["transcript"], row.get("language"))]
    if not all(row["path"] for row in rows):
        raise OptionError(f"the manifest {path} has a transcript without a path; name its file.")
    recordings = tuple(
        Recording(path.parent / row["path"], row["transcript"], row.get("language") or None)
        for row in rows
    )
    if not recordings:
        raise OptionError(f"the manifest {path} has no recording with a transcript.")
    lost = [str(r.path) for r in recordings if not r.path.is_file()]
    if lost:
        raise OptionError(
            f"{lost[0]} is in the manifest {path} and not there"
            + (f", nor are {len(lost) - 1} others" if len(lost) > 1 else "")
            + "; paths are relative to the manifest."
        )
    return recordings


def _has_words(transcript: str | None, language: str | None) -> bool:
    """Whether anything of a transcript is left once it is normalised, as of "[music]" is not."""
    return bool(normaliser(language or "")(transcript or "").strip())


def check_packages() -> None:
    """Refuse to calibrate without what counts errors.

    Raises:
        OptionError: a package is missing.
    """
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise OptionError(
            f"--calibrate needs {' and '.join(missing)}: pip install 'mwc[calibrate]'"
        )


def calibrate(
    artifact: Artifact, recordings: tuple[Recording, ...], progress: Progress = silent
) -> tuple[Calibration, ...]:
    """Transcribe the recordings with an artifact and count its errors, language by language.

    The target is the one that `mwc run` would take here, the options are its defaults.

    Raises:
        OptionError: a recording cannot be decoded, or its language is none of the model's.
        TargetError: the artifact cannot run here.
    """
    from mwc.runtime.model import Model

    model = Model(artifact, device="auto", threads=None)
    by_language: dict[str, list[tuple[str, str]]] = {}
    for done, recording in enumerate(recordings):
        progress(ProgressEvent("calibrate", done, len(recordings), "files"))
        try:
            transcript = model.transcribe(recording.path, language=recording.language)
        except (AudioError, OptionError) as error:
            raise OptionError(f"--calibrate, {recording.path}: {error}") from error
        pairs = by_language.setdefault(transcript.language, [])
        pairs.append((recording.transcript, transcript.text))
    progress(ProgressEvent("calibrate", len(recordings), len(recordings), "files"))
    results = []
    for language, pairs in sorted(by_language.items()):
        references, texts = zip(*pairs, strict=True)
        errors = word_errors(references, texts, language)
        if errors.words == 0:  # nothing but what its normaliser leaves out: "Hmm."
            continue
        results.append(Calibration(language, len(pairs), errors, errors.rate))
    return tuple(results)
