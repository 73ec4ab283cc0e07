"""Transcripts of the other engines, kept between runs: they take long and do not change.

One JSON file per engine and set of options in `.bench/<source>/transcripts/`. It holds what the
transcripts depend on, the engine's versions and the options; where these have changed, it is begun
anew. Each transcript is kept with the hash of its samples.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from engines import Engine, Options, Piece, Result, Spoken
from machine import package_version


class KeptTranscripts:
    """An engine's transcripts with one set of options."""

    def __init__(self, path: Path, packages: Sequence[str], options: Options) -> None:
        """Open `path`; what it holds counts only for these versions and options."""
        self._path = path
        about = {"versions": {p: package_version(p) for p in packages}, "options": dict(options)}
        self._about: dict[str, Any] = json.loads(json.dumps(about))
        self._options = options
        self._results: dict[str, Any] = {}
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["about"] == self._about:
                self._results = found["results"]

    def transcribe(
        self, engine: Engine, name: str, samples: npt.NDArray[np.float32], language: str
    ) -> Result:
        """Give the transcript that is kept, else make it, with timestamps, and keep it."""
        key = f"{name} {language} {hashlib.sha256(samples.tobytes()).hexdigest()[:16]}"
        if key not in self._results:
            made = engine.transcribe(samples, language, True, options=self._options)
            self._results[key] = asdict(made)
            self._save()
        return result_from(self._results[key])

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        text = json.dumps({"about": self._about, "results": self._results}, ensure_ascii=False)
        partial.write_text(text, encoding="utf-8")
        partial.rename(self._path)


def result_from(data: dict[str, Any]) -> Result:
    """The inverse of `asdict`, also after JSON."""
    pieces = []
    for piece in data["pieces"]:
        words = tuple(Spoken(**word) for word in piece["words"])
        pieces.append(Piece(**{**piece, "tokens": tuple(piece["tokens"]), "words": words}))
    return Result(data["text"], tuple(pieces))
