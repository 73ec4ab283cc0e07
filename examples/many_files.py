"""Keep one model loaded and feed it many files: python many_files.py ARTIFACT AUDIO…

An application loads once and decodes for as long as it lives. A file that is no audio raises
AudioError and leaves the model as it was.
"""

import sys
from collections.abc import Iterator

from mwc.runtime import Model, MwcError, load
from mwc.runtime.errors import AudioError


def transcripts(model: Model, paths: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each path with its text, or with what was wrong with it."""
    for path in paths:
        try:
            yield path, model.transcribe(path).text.strip()
        except AudioError as error:
            yield path, f"(skipped: {error})"


def main(artifact: str, *paths: str) -> None:
    """Print one line per file."""
    for path, text in transcripts(load(artifact), list(paths)):
        print(f"{path}\t{text}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except MwcError as error:  # no artifact, for one; its text is meant for people
        sys.exit(str(error))
