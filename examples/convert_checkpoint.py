"""Convert a checkpoint from Python: python convert_checkpoint.py SOURCE OUT."""

import sys
from pathlib import Path

from mwc.compiler import ConvertOptions, convert
from mwc.runtime.errors import MwcError
from mwc.runtime.progress import ProgressEvent


def show(event: ProgressEvent) -> None:
    """Tell where the conversion stands; an application would draw its own bar."""
    total = f" of {event.total:g}" if event.total else ""
    print(f"{event.stage}: {event.done:g}{total} {event.unit}", file=sys.stderr)


def main(source: str, out: str) -> None:
    """Compile for this machine's CPU and print what verification found."""
    try:
        result = convert(source, Path(out), ConvertOptions(precision="f32"), show)
    except MwcError as error:
        sys.exit(f"could not convert: {error}")
    for note in result.notes:
        print(f"note: {note}")
    if result.report:
        print("\n".join(result.report.summary()))
    print(f"wrote {result.artifact}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
