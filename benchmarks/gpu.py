"""One run on a GPU: sections of measurements, a short table last, JSON kept after each section.

    python benchmarks/gpu.py out/tiny.en out/base out/large-v3 --checkpoint pkg:tiny.en \\
        --clips ../shared/audio/short --operations 989.4e12 --bandwidth 4.8e12 --name h200

Artifacts are compiled beforehand, for example with `mwc convert … --target cuda:sm_90a --precision
bf16`; `random_artifact.py` makes one of any size. `--checkpoint` is what the first was made from. A
section that fails says why, and the others go on; sections measured before stay in the file.
`--device cpu` tries the script itself.
"""

import argparse
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_sections import Run, encoder, parity, probe, step
from gpu_trace import trace
from gpu_transcripts import company, soak, windows
from gpu_transformers import transformers
from machine import machine, machine_lines

from mwc.runtime.floor import Rates

SECTIONS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "probe": probe,
    "parity": parity,
    "trace": trace,
    "encoder": encoder,
    "step": step,
    "windows": windows,
    "transformers": transformers,
    "company": company,
    "soak": soak,
}
"""In the order of what is wanted first."""

PACKAGES = ("max", "mwc", "numpy", "torch", "transformers")

RESULTS = Path(__file__).resolve().parent / "results"
SAMPLE = Path(__file__).resolve().parent.parent / "compiler" / "data" / "sample.flac"


def measure(run: Run, sections: list[str], path: Path, found: dict[str, Any]) -> None:
    """Run the sections; what there is so far is in the files after each.

    One that fails leaves what was measured of it before.
    """
    for name in sections:
        print(f"== {name}", flush=True)
        where = machine(PACKAGES) | {"gpu": gpu_name(run.device)}
        failed = found.setdefault("failed", {})
        failed.pop(name, None)
        try:
            found[name] = SECTIONS[name](run)
            found.setdefault("measured", {})[name] = where
        except Exception as error:
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"
        path.write_text(json.dumps(found, indent=1, default=str) + "\n")
        path.with_suffix(".md").write_text(markdown(found, path.stem))


def gpu_name(device: str) -> str | None:
    """The model of the GPU that is measured; None where it is a CPU."""
    if device == "cpu":
        return None
    from max.driver import Accelerator

    _, _, index = device.partition(":")
    return str(Accelerator(int(index) if index.isdecimal() else 0).model_name)


def clips_in(folder: Path) -> tuple[Path, ...]:
    """Its audio files, also those of folders in it."""
    found = sorted(path for path in folder.rglob("*") if path.suffix in (".flac", ".wav", ".mp3"))
    if not found:
        raise SystemExit(f"{folder} holds no .flac, .wav or .mp3")
    return tuple(found)


def told(values: object) -> str:
    """A measurement on one line."""
    if isinstance(values, dict):
        return ", ".join(f"{name} {told(value)}" for name, value in values.items())
    return str(values)


def table(found: dict[str, Any], sections: list[str]) -> str:
    """A line for each measurement."""
    lines = []
    for section in sections:
        measured = found.get(section, {}).items()
        lines += [f"{section:12} {what}: {told(values)}" for what, values in measured]
    return "\n".join([*lines, *failures(found)])


def failures(found: dict[str, Any]) -> list[str]:
    """A line for each section that failed."""
    return [f"{section} failed: {why}" for section, why in found.get("failed", {}).items()]


def markdown(found: dict[str, Any], name: str) -> str:
    """Each section's machine and table."""
    lines = [f"# On a GPU: {name}"]
    for section in (section for section in SECTIONS if section in found):
        # Results of before this was told of each section tell it once for all.
        where = found.get("measured", {}).get(section, found)
        lines += ["", f"## {section}", "", *machine_lines(where)]
        if where.get("gpu"):
            lines += ["", f"GPU: {where['gpu']}."]
        lines += ["", "| what | measured |", "|---|---|"]
        lines += [f"| {what} | {told(values)} |" for what, values in found[section].items()]
    lines += [line for why in failures(found) for line in ("", why)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("artifacts", nargs="+", type=Path)
    add("--checkpoint", help="what the first was made from")
    add("--device", default="gpu")
    add("--rows", type=int, nargs="+", default=[1, 8, 32])
    add("--audio", type=Path, default=SAMPLE)
    add("--clips", type=Path, help="a folder of speech, for the sections company and soak")
    add("--tokens", type=int, default=100, help="decoded of each window of 30 s")
    add("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION",
        help=", ".join(SECTIONS))  # fmt: skip
    add("--operations", type=float, help="multiply-adds of the device per second, times two")
    add("--bandwidth", type=float, help="bytes per second of its memory")
    add("--soak-seconds", type=float, default=60.0)
    add("--name", required=True, help="of benchmarks/results/NAME.json")
    given = parser.parse_args()
    rates = None
    if given.operations and given.bandwidth:
        rates = Rates(given.operations, given.bandwidth)
    run = Run(
        artifacts=tuple(given.artifacts),
        checkpoint=given.checkpoint,
        device=given.device,
        rows=tuple(given.rows),
        audio=given.audio,
        clips=clips_in(given.clips) if given.clips else (given.audio,),
        tokens=given.tokens,
        rates=rates,
        soak_seconds=given.soak_seconds,
    )
    path = RESULTS / f"{given.name}.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    measure(run, given.sections, path, found)
    print(table(found, given.sections))


if __name__ == "__main__":
    main()
