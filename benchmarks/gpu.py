"""One run on a GPU: sections of measurements, a short table last, JSON kept after each section.

    python benchmarks/gpu.py out/tiny.en out/base --checkpoint tiny.en/ --checkpoint base/ \\
        --device gpu --operations 989.4e12 --bandwidth 3.35e12 --name h100

Artifacts are compiled beforehand, for example with `mwc convert … --target cuda:sm_90a --precision
bf16`. A section that fails says why, and the others go on. `--device cpu` tries the script itself.
"""

import argparse
import json
import traceback
from pathlib import Path
from typing import Any

from gpu_sections import SECTIONS, Run
from machine import machine

from mwc.runtime.floor import Rates

RESULTS = Path(__file__).resolve().parent / "results"
SAMPLE = Path(__file__).resolve().parent.parent / "compiler" / "data" / "sample.flac"


def measure(run: Run, sections: list[str], path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Run the sections; what there is so far is in the file after each."""
    for name in sections:
        print(f"== {name}", flush=True)
        try:
            found[name] = SECTIONS[name](run)
        except Exception as error:
            traceback.print_exc()
            found[name] = {"failed": f"{type(error).__name__}: {error}"}
        path.write_text(json.dumps(found, indent=1, default=str) + "\n")
    return found


def table(found: dict[str, Any], sections: list[str]) -> str:
    """A line for each measurement."""
    lines = []
    for section in sections:
        for what, values in found[section].items():
            told = values
            if isinstance(values, dict):
                told = ", ".join(f"{name} {value}" for name, value in values.items())
            lines.append(f"{section:12} {what}: {told}")
    return "\n".join(lines)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("artifacts", nargs="+", type=Path)
    add("--checkpoint", action="append", default=[], help="what each was made from, in order")
    add("--device", default="gpu")
    add("--rows", type=int, nargs="+", default=[1, 8, 32])
    add("--audio", type=Path, default=SAMPLE)
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
        checkpoints=tuple(given.checkpoint),
        device=given.device,
        rows=tuple(given.rows),
        audio=given.audio,
        rates=rates,
        soak_seconds=given.soak_seconds,
    )
    found = machine(["max", "mwc", "numpy", "torch", "transformers"])
    path = RESULTS / f"{given.name}.json"
    print(table(measure(run, given.sections, path, found), given.sections))


if __name__ == "__main__":
    main()
