"""`mwc bench`: how fast an artifact is here, for people or as JSON."""

import json
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mwc.cli import run_options as options
from mwc.cli.console import Display
from mwc.cli.values import read_threads
from mwc.runtime.errors import OptionError

if TYPE_CHECKING:
    from mwc.runtime.bench import BenchReport, Stage


def command(
    artifact: Annotated[
        Path, typer.Argument(help="A folder that `mwc convert` made.", show_default=False)
    ],
    audio: Annotated[
        Path | None,
        typer.Argument(help="A clip to transcribe; one of 10 s if left out.", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="How often the clip is transcribed.")] = 3,
    device: Annotated[
        str,
        typer.Option("--device", help="auto, cpu, gpu, gpu:1 or the name of a target."),
    ] = "auto",
    threads: options.Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how fast an artifact is on this machine.

    Each entry point is timed beside the least time that its arithmetic and its memory traffic
    take here: what this machine can do is measured first. Wants an otherwise idle machine.
    """
    if rounds < 1:
        raise OptionError(f"--rounds is at least 1, not {rounds}")
    n_threads = read_threads(threads)
    from mwc.runtime.bench import bench

    with Display() as display, ExitStack() as stack:
        sample = files("mwc.compiler") / "data" / "sample.flac"
        clip = audio or stack.enter_context(as_file(sample))
        place = "gpu" if device == "cuda" else device
        report = bench(
            artifact, clip, device=place, threads=n_threads, rounds=rounds, progress=display
        )
    print(json.dumps(report.to_json(), indent=2) if as_json else "\n".join(format_report(report)))


def format_report(report: "BenchReport") -> list[str]:
    """The report as lines of a table."""
    clip, memory = report.clip, report.memory
    lines = [
        f"{report.artifact}: {report.precision}, {report.target}",
        f"{report.cpu}, {report.threads} threads",
    ]
    if report.rates:
        lines.append(
            f"at most {report.rates.operations / 1e9:.0f} GFLOP/s in float32 and "
            f"{report.rates.bandwidth / 1e9:.1f} GB/s from memory"
        )
    lines += ["", f"{'':32}{'median':>11}{'p95':>11}{'floor':>11}{'ratio':>8}{'tokens/s':>10}"]
    lines += map(format_stage, report.stages)
    load = f"load        {report.load_seconds:.2f} s"
    if report.load_floor and report.load_ratio:
        load += f", floor {report.load_floor:.3f} s; ratio {report.load_ratio:.0f}"
    stages = ", ".join(f"{name} {seconds:.3f}" for name, seconds in report.load_stages.items())
    lines += [
        "",
        load,
        f"            {stages}",
        f"transcribe  {clip.audio}, {clip.duration:.1f} s: {clip.seconds:.3f} s, "
        f"{clip.real_time_factor:.1f} times real time, {clip.tokens} tokens "
        f"({clip.tokens / clip.seconds:.0f} a second)",
    ]
    if clip.floor:
        lines.append(
            f"            floor {clip.floor:.3f} s, {clip.duration / clip.floor:.0f} times real "
            f"time; ratio {clip.seconds / clip.floor:.1f}"
        )
    lines.append(
        f"memory      {memory['peak']:.0f} MiB at most; now {memory['private']:.0f} private + "
        f"{memory['mapped']:.0f} mapped"
    )
    lines.append(
        f"            floor {memory['weights']:.0f} weights + {memory['caches']:.0f} caches; ratio "
        f"{report.memory_ratio:.1f}"
    )
    return lines


def format_stage(stage: "Stage") -> str:
    """One row of the table."""
    floor, ratio = "", ""
    if stage.floor and stage.ratio:
        floor, ratio = f"{stage.floor * 1e3:.3f} ms", f"{stage.ratio:.1f}"
    tokens = "" if stage.tokens_per_second is None else f"{stage.tokens_per_second:.0f}"
    return (
        f"{stage.name:32}{stage.seconds * 1e3:8.3f} ms{stage.p95 * 1e3:8.3f} ms{floor:>11}"
        f"{ratio:>8}{tokens:>10}"
    )
