"""How long MAX takes to compile each size of Whisper: a layer is compiled once, whatever the depth.

    python benchmarks/compile_time.py tiny.en large-v3 large-v3-turbo
    python benchmarks/compile_time.py --target cuda:sm_90a --target hip:gfx942 --precision bf16 base

No weights are needed, and no GPU: only the graphs are compiled, by default for this CPU in float32,
with empty caches of their own (MODULAR_CACHE_DIR, MODULAR_MAX_CACHE_DIR). Results go to
benchmarks/results/compile-time.md and .json, in place of earlier ones of the same target, precision
and size.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from machine import machine, machine_lines

from mwc.compiler.compile import CompileJob, compile_target
from mwc.compiler.target import parse_target
from mwc.runtime.languages import NAME_OF_LANGUAGE
from mwc.runtime.spec import AudioSpec, ModelSpec, TokenSpec, WhisperSpec

RESULTS = Path(__file__).resolve().parent / "results"

SIZES = {
    "tiny.en": (80, 384, 6, 4, 4, 51864),
    "tiny": (80, 384, 6, 4, 4, 51865),
    "base": (80, 512, 8, 6, 6, 51865),
    "small": (80, 768, 12, 12, 12, 51865),
    "medium": (80, 1024, 16, 24, 24, 51865),
    "large-v2": (80, 1280, 20, 32, 32, 51865),
    "large-v3": (128, 1280, 20, 32, 32, 51866),
    "large-v3-turbo": (128, 1280, 20, 32, 4, 51866),
}
"""mels, width, heads, encoder layers, decoder layers, vocabulary (openai/whisper model-card.md)."""


@dataclass(frozen=True)
class Measured:
    """One compilation: of what, when, how long, and how many bytes came of it."""

    target: str
    precision: str
    size: str
    seconds: float
    bytes: int
    date: str
    load_average: float


def spec_of(name: str) -> WhisperSpec:
    """The spec of a size; the ids are those of its vocabulary, the alignment heads made up."""
    mels, width, heads, encoder, decoder, vocab = SIZES[name]
    model = ModelSpec(
        mels, 1500, width, heads, encoder, 4 * width, vocab, 448, width, heads, decoder, 4 * width
    )
    multilingual = not name.endswith(".en")
    sot = 50258 if multilingual else 50257
    codes = list(NAME_OF_LANGUAGE)[: vocab - 51766] if multilingual else []
    languages = tuple((code, sot + 1 + i) for i, code in enumerate(codes))
    no_timestamps = vocab - 1502
    tokens = TokenSpec(
        eot=sot - 1,
        sot=sot,
        sot_prev=no_timestamps - 2,
        no_speech=no_timestamps - 1,
        no_timestamps=no_timestamps,
        timestamp_begin=no_timestamps + 1,
        transcribe=no_timestamps - 4 if multilingual else None,
        translate=no_timestamps - 5 if multilingual else None,
        languages=languages,
        suppress_tokens=(),
        begin_suppress_tokens=(220, sot - 1),
        max_initial_timestamp_index=50,
        alignment_heads=tuple((decoder - 1, head) for head in range(6)),
        alignment_heads_derived=True,
    )
    return WhisperSpec(model, AudioSpec(), tokens)


def measure(target: str, precision: str, name: str, found: dict[str, Any]) -> Measured:
    """Compile every entry point, in a child process as `mwc convert` does."""
    with tempfile.TemporaryDirectory(prefix="mwc-bench-") as folder:
        for variable in ("MODULAR_CACHE_DIR", "MODULAR_MAX_CACHE_DIR"):
            os.environ[variable] = str(Path(folder, "cache"))
        mef = Path(folder, "whisper.mef")
        load = os.getloadavg()[0]
        begin = time.perf_counter()
        compile_target(CompileJob(spec_of(name), precision, parse_target(target), str(mef)))
        seconds, size = time.perf_counter() - begin, mef.stat().st_size
    rounded = round(seconds, 1), size
    return Measured(target, precision, name, *rounded, found["date"], round(load, 2))


def earlier() -> dict[tuple[str, str, str], Measured]:
    """What was measured before, by target, precision and size."""
    path = RESULTS / "compile-time.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    return {(row["target"], row["precision"], row["size"]): Measured(**row) for row in rows}


def write(found: dict[str, Any], rows: list[Measured]) -> str:
    """Write the results; return the Markdown."""
    lines = ["# Time to compile", "", *machine_lines(found), ""]
    lines += ["Machine, versions and command are those of the last run.", ""]
    lines += [
        "| target | precision | size | layers | seconds | compiled file | load before | date |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in rows:
        _, _, _, encoder, decoder, _ = SIZES[row.size]
        lines.append(
            f"| {row.target} | {row.precision} | {row.size} | {encoder} + {decoder} | "
            f"{row.seconds:.1f} | {row.bytes / 1e6:.1f} MB | {row.load_average} | {row.date[:10]} |"
        )
    text = "\n".join(lines) + "\n"
    (RESULTS / "compile-time.md").write_text(text)
    data = {**found, "rows": [asdict(row) for row in rows]}
    (RESULTS / "compile-time.json").write_text(json.dumps(data, indent=1) + "\n")
    return text


def main() -> None:
    """Compile what was asked for, and write after each: the next may take minutes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="+", choices=SIZES, metavar="SIZE", help=", ".join(SIZES))
    parser.add_argument("--target", action="append", help="repeatable; as for mwc convert")
    parser.add_argument("--precision", default="f32")
    arguments = parser.parse_args()
    found = machine(["max", "mwc"])
    rows = earlier()
    for target in arguments.target or ["cpu"]:
        for name in arguments.sizes:
            row = measure(target, arguments.precision, name, found)
            rows[target, arguments.precision, name] = row
            text = write(found, list(rows.values()))
            print(f"{target} {arguments.precision} {name}: {row.seconds} s", flush=True)
    print(text)


if __name__ == "__main__":
    main()
