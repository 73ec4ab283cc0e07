"""What was measured, as Markdown to read and JSON to keep."""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from child import Measured
from machine import machine_lines
from startup import ConvertTimes


@dataclass(frozen=True)
class Report:
    """Everything of one run; see `run.py`."""

    name: str
    machine: dict[str, Any]
    audio: str
    short: str
    seconds: float
    threads: int
    beam_size: int
    timestamps: bool
    started: str
    clips: int
    engines: dict[str, list[Measured]]
    start: dict[str, list[float]]
    convert: ConvertTimes | None


def write_report(report: Report, folder: Path) -> str:
    """Write folder/<name>.md and .json; return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(markdown(report)) + "\n"
    (folder / f"{report.name}.md").write_text(text, encoding="utf-8")
    data = json.dumps(asdict(report), indent=1) + "\n"
    (folder / f"{report.name}.json").write_text(data, encoding="utf-8")
    return text


def draw(report: Report, folder: Path) -> None:
    """Draw the engines as folder/<name>.svg, to which the Markdown points; needs matplotlib."""
    from plot import write_plot

    title = f"{report.name}: {report.audio}, {report.threads} threads, {search(report)}"
    engines = {name: medians(runs) for name, runs in report.engines.items()}
    write_plot(folder / f"{report.name}.svg", title, report.seconds, engines)


def markdown(report: Report) -> list[str]:
    lines = [f"# {report.name}: speed, start, memory", "", *machine_lines(report.machine), ""]
    if report.engines:
        lines += engine_lines(report)
        if report.clips:
            lines += clip_lines(report)
    if report.start:
        lines += start_lines(report)
    if report.convert:
        lines += convert_lines(report.convert)
    return lines[:-1]


def engine_lines(report: Report) -> list[str]:
    """The engines beside each other: medians of the rounds, ratios to mwc."""
    of = {name: medians(runs) for name, runs in report.engines.items()}
    rows = [
        [
            name,
            f"{m['transcribe']:.2f} s",
            f"{report.seconds / m['transcribe']:.1f}",
            ratio(of, name, "mwc", "transcribe"),
            ratio(of, name, "mwc int8", "transcribe"),
            spread(run.transcribe for run in report.engines[name]),
            f"{m['load']:.2f} s",
            f"{m['first_text']:.2f} s",
            f"{m['long_first_text']:.2f} s",
            f"{m['peak_mib']:.0f} MiB",
            f"{m['anonymous_mib']:.0f} + {m['mapped_mib']:.0f}",
            "" if m["error_rate"] is None else f"{100 * m['error_rate']:.2f} %",
        ]
        for name, m in of.items()
    ]
    head = [
        "engine",
        "time",
        "times real time",
        "time / mwc's",
        "time / mwc int8's",
        "fastest to slowest",
        "load",
        "start to first text",
        "long: first text",
        "peak memory",
        "at the end",
        "word errors",
    ]
    count = len(next(iter(report.engines.values())))
    rounds = "Medians of 1 round" if count == 1 else f"Medians of {count} rounds"
    return [
        f"## {report.audio}, {report.seconds:.0f} s, {report.threads} threads",
        "",
        f"![times real time]({report.name}.svg)",
        "",
        *table(head, rows),
        "",
        f"{rounds}, the engines in turn, each time in a process of its own kept on "
        f"{report.threads} CPUs. {search(report).capitalize()}, temperature 0, "
        f"{'with' if report.timestamps else 'without'} timestamps, "
        "the language given, each engine from the file. Batch 8: eight windows at once, which "
        "faster-whisper cuts with its own speech detector. Ratios are to mwc in the same mode, "
        "batched or not; above 1, mwc is faster. "
        "Load: the engine's imports and its model. Start to first text: from starting the "
        f"process, on {report.short}; openai-whisper and transformers give their text at the end "
        "only. Peak memory: the most resident at once (VmHWM), in which memory-mapped files count, "
        "such as mwc's weights and the libraries of all; the ffmpeg process that openai-whisper "
        "starts does not count. At the end: private "
        "memory + pages of mapped files, MiB.",
        "",
    ]


def search(report: Report) -> str:
    """How tokens were searched for."""
    return "greedy, one hypothesis" if report.beam_size == 1 else f"beams of {report.beam_size}"


def clip_lines(report: Report) -> list[str]:
    """The short clips, one at a time."""
    of = {name: medians(runs) for name, runs in report.engines.items()}
    rows = [
        [
            name,
            f"{m['clips']:.2f} s",
            ratio(of, name, "mwc", "clips"),
            ratio(of, name, "mwc int8", "clips"),
            f"{100 * m['clips_error_rate']:.2f} %",
        ]
        for name, m in of.items()
        if m["clips"] is not None
    ]
    return [
        f"## {report.clips} short clips, one at a time",
        "",
        *table(["engine", "time", "time / mwc's", "time / mwc int8's", "word errors"], rows),
        "",
        "In the same processes, after the long file.",
        "",
    ]


def ratio(of: Mapping[str, Mapping[str, Any]], name: str, ours: str, what: str) -> str:
    """An engine's time over that of one of mwc's, batched where the engine is."""
    base = of.get(f"{ours}, batch 8" if name.endswith(", batch 8") else ours)
    return f"{of[name][what] / base[what]:.2f}" if base else ""


def start_lines(report: Report) -> list[str]:
    rows = [
        [name, f"{statistics.median(times):.2f} s", spread(times)]
        for name, times in report.start.items()
    ]
    return [
        "## Start",
        "",
        *table(["what", "median", "fastest to slowest"], rows),
        "",
        f"Fresh processes, {report.started}, the options at their defaults but for the language; "
        f"the short clip is {report.short}, the long file {report.audio}. The artifact is ready "
        "and its files are in the page cache.",
        "",
    ]


def convert_lines(convert: ConvertTimes) -> list[str]:
    return [
        "## Converting",
        "",
        f"`mwc convert {convert.source}`, verified: {convert.cold:.1f} s with empty caches, "
        f"{convert.warm:.1f} s once more with the caches that left ({convert.cache_mib:.0f} MiB); "
        f"warm with `--no-verify`: {convert.warm_unverified:.1f} s.",
        "",
    ]


def medians(runs: Sequence[Measured]) -> dict[str, Any]:
    """The median of every field; None where it was not measured."""
    values = {name: [getattr(run, name) for run in runs] for name in asdict(runs[0])}
    return {n: None if None in found else statistics.median(found) for n, found in values.items()}


def spread(values: Iterable[float], form: Callable[[float], str] = "{:.2f}".format) -> str:
    ordered = sorted(values)
    return f"{form(ordered[0])} to {form(ordered[-1])}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
