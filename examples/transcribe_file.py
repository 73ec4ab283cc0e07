"""Transcribe one file with a compiled artifact: python transcribe_file.py ARTIFACT AUDIO."""

import sys

from mwc.runtime import MwcError, load


def main(artifact: str, audio: str) -> None:
    """Print each segment with its times as soon as it is decoded."""
    model = load(artifact)
    for segment in model.stream(audio):
        print(f"{segment.start:7.2f} {segment.end:7.2f}  {segment.text.strip()}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except MwcError as error:  # its text is meant for people
        sys.exit(str(error))
