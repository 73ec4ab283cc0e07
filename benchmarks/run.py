"""Speed, start and memory of mwc beside other engines: same audio, weights, threads and decoding.

    python benchmarks/run.py                                  # everything, tiny.en
    python benchmarks/run.py --source pkg:base --name base
    python benchmarks/run.py --artifact A --openai A.pt --ctranslate2 A-ct2 --name mine

Each measurement is made in a process of its own, the engines in turn, round after round. The
other engines come with `pip install 'mwc[bench]'`; openai-whisper and whisper.cpp also need the
ffmpeg command.
Results go to benchmarks/results/<name>.md, .json and .svg.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from child import Job, Measured
from engines import ENGINES
from machine import machine, say
from report import Report, draw, write_report
from speech_corpus import CORPUS, read_corpus, spread
from startup import ConvertTimes, command_seconds, convert_seconds, import_seconds
from weights import artifact_of, ctranslate2_folder, ggml_file, openai_file

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "compiler" / "data" / "sample.flac"
GREEDY_ONLY = ("whisper.cpp f16",)
"""Engines whose adapters know no beams."""
PARTS = ("engines", "start", "convert")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--source", default="pkg:tiny.en", help="what mwc converts (default: %(default)s)")
    add("--artifact", type=Path, help="an artifact of it; converted if left out")
    add("--artifact-int8", type=Path, help="an int8 artifact of it; converted if left out")
    add(
        "--openai", type=Path, help="the same weights as a .pt; made from a pkg: source if left out"
    )
    add("--ctranslate2", type=Path, help="the same as a CTranslate2 folder; made likewise")
    add("--ggml", type=Path, help="the same as a GGML file of float16; made likewise")
    add("--audio", type=Path, default=CORPUS / "long" / "synthetic.flac", help="the long file")
    add("--short", type=Path, default=SAMPLE, help="the clip whose first text is timed")
    add("--language", default="en")
    add("--without-timestamps", action="store_true")
    add("--beam-size", type=int, default=1, help="hypotheses of each engine (default: greedy)")
    add("--clips", type=int, default=20, help="short clips timed one at a time; 0 for none")
    add("--threads", type=int, default=2)
    add("--rounds", type=int, default=3)
    add("--engines", nargs="+", choices=ENGINES, metavar="ENGINE", help="default: all that can")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    add("--name", default="tiny.en", help="of the results")
    arguments = parser.parse_args()
    greedy_only = GREEDY_ONLY if arguments.beam_size > 1 else ()
    for name in greedy_only:
        if name in (arguments.engines or ()):
            parser.error(f"{name} is asked for greedy decoding only, not --beam-size")
    arguments.engines = arguments.engines or [n for n in ENGINES if n not in greedy_only]
    for audio in (arguments.audio, arguments.short):
        if not audio.is_file():
            parser.error(f"there is no {audio}; give --audio and --short, or MWC_TEST_AUDIO")
    return arguments


def weights_for(arguments: argparse.Namespace) -> dict[str, Path]:
    """What each engine loads; made where it was not given."""
    source = arguments.source
    found: dict[str, Path] = {}
    for name in arguments.engines:
        if name.startswith("mwc int8"):
            found[name] = arguments.artifact_int8 or artifact_of(source, "int8")
        elif name.startswith("mwc"):
            found[name] = arguments.artifact or artifact_of(source)
        elif name in ("openai-whisper", "transformers"):
            found[name] = arguments.openai or openai_file(source)
        elif name.startswith("whisper.cpp"):
            found[name] = arguments.ggml or ggml_file(source)
        else:
            found[name] = arguments.ctranslate2 or ctranslate2_folder(source)
    return found


def measure(name: str, weights: Path, arguments: argparse.Namespace) -> Measured:
    """Run one engine in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="mwc-bench-") as folder:
        job, result = Path(folder, "job.json"), Path(folder, "result.json")
        description = Job(
            engine=name,
            weights=str(weights),
            short=str(arguments.short),
            audio=str(arguments.audio),
            language=arguments.language,
            threads=arguments.threads,
            timestamps=not arguments.without_timestamps,
            transcript=transcript_of(arguments.audio),
            beam_size=arguments.beam_size,
            clips=short_clips(arguments.clips, arguments.language),
            begun=time.monotonic(),
        )
        job.write_text(json.dumps(asdict(description)))
        threads = {"OMP_NUM_THREADS": str(arguments.threads)}
        line = [sys.executable, str(ROOT / "benchmarks" / "child.py"), str(job), str(result)]
        subprocess.run(line, env={**os.environ, **threads}, check=True)
        return Measured(**json.loads(result.read_text()))


def transcript_of(audio: Path) -> str:
    """What is said in a file of the corpus; empty for any other."""
    if not (CORPUS / "manifest.tsv").is_file():
        return ""
    said = {clip.path.resolve(): clip.transcript for clip in read_corpus(CORPUS)}
    return said.get(audio.resolve(), "")


def short_clips(count: int, language: str) -> dict[str, str]:
    """Short clips of the corpus in a language, at even distances, and what is said in each."""
    if not (CORPUS / "manifest.tsv").is_file():
        return {}
    clips = [c for c in read_corpus(CORPUS) if c.group == "short" and c.language == language]
    return {str(clip.path): clip.transcript for clip in spread(clips, count)}


def measure_engines(arguments: argparse.Namespace) -> dict[str, list[Measured]]:
    """Run every engine in turn, round after round; one that fails is left out."""
    weights = weights_for(arguments)
    found: dict[str, list[Measured]] = {name: [] for name in arguments.engines}
    for number in range(arguments.rounds):
        for name in list(found):
            say(f"round {number + 1} of {arguments.rounds}: {name}")
            try:
                found[name].append(measure(name, weights[name], arguments))
            except subprocess.CalledProcessError:
                say(f"{name} failed, as its traceback says; it is left out")
                del found[name]
    return found


def started_precision(arguments: argparse.Namespace) -> str:
    """The precision whose start is timed: of the first engine that is mwc, else float32."""
    first = next((name for name in arguments.engines if name.startswith("mwc")), "mwc")
    return "int8" if first.startswith("mwc int8") else "f32"


def measure_start(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Time importing mwc.runtime, and `mwc run` on the short clip and the long file."""
    precision = started_precision(arguments)
    given = arguments.artifact_int8 if precision == "int8" else arguments.artifact
    artifact = given or artifact_of(arguments.source, precision)
    found: dict[str, list[float]] = {
        "import mwc.runtime": [],
        "mwc run, short clip, to the first word": [],
        "mwc run, short clip, to its exit": [],
        "mwc run, long file, to the first word": [],
    }
    for number in range(max(arguments.rounds, 3)):
        say(f"start, {number + 1}")
        how = arguments.threads, arguments.language
        first, whole = command_seconds(artifact, arguments.short, *how)
        long_first, _ = command_seconds(artifact, arguments.audio, *how)
        values = (import_seconds(), first, whole, long_first)
        for times, value in zip(found.values(), values, strict=True):
            times.append(value)
    return found


def measure_convert(arguments: argparse.Namespace) -> ConvertTimes:
    """Time a conversion with empty caches, and once more."""
    say(f"converting {arguments.source} with empty caches: minutes")
    return convert_seconds(arguments.source)


def packages(names: Iterable[str]) -> list[str]:
    return [package for name in names for package in ENGINES[name]().packages]


def main() -> None:
    arguments = parse_arguments()
    parts = arguments.parts
    report = Report(
        name=arguments.name,
        machine=machine(packages(arguments.engines)),
        audio=arguments.audio.name,
        short=arguments.short.name,
        seconds=duration(arguments.audio),
        threads=arguments.threads,
        beam_size=arguments.beam_size,
        timestamps=not arguments.without_timestamps,
        started=started_precision(arguments),
        clips=len(short_clips(arguments.clips, arguments.language)),
        engines=measure_engines(arguments) if "engines" in parts else {},
        start=measure_start(arguments) if "start" in parts else {},
        convert=measure_convert(arguments) if "convert" in parts else None,
    )
    results = ROOT / "benchmarks" / "results"
    say("\n" + write_report(report, results))
    if report.engines:
        draw(report, results)
    asked = arguments.engines if "engines" in parts else []
    if left_out := [name for name in asked if name not in report.engines]:
        sys.exit(f"left out, since they failed: {', '.join(left_out)}")


def duration(audio: Path) -> float:
    """Seconds of audio, by decoding it."""
    from mwc.runtime.audio import open_audio

    return sum(len(block) for block in open_audio(audio).blocks()) / 16000


if __name__ == "__main__":
    main()
