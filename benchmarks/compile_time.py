"""How long MAX takes to compile each size of Whisper: a layer is compiled once, whatever the depth.

    python benchmarks/compile_time.py tiny large-v3 turbo

No weights are needed: only the graphs are compiled, for this CPU in float32, with empty caches of
their own (MODULAR_CACHE_DIR, MODULAR_MAX_CACHE_DIR). Results go to
benchmarks/results/compile-time.md and .json.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from machine import machine, machine_lines

from mwc.compiler.compile import CompileJob, compile_target
from mwc.compiler.target import parse_target
from mwc.runtime.spec import AudioSpec, ModelSpec, TokenSpec, WhisperSpec

RESULTS = Path(__file__).resolve().parent / "results"

SIZES = {
    "tiny": (80, 384, 6, 4, 4, 51865),
    "base": (80, 512, 8, 6, 6, 51865),
    "small": (80, 768, 12, 12, 12, 51865),
    "medium": (80, 1024, 16, 24, 24, 51865),
    "large-v2": (80, 1280, 20, 32, 32, 51865),
    "large-v3": (128, 1280, 20, 32, 32, 51866),
    "turbo": (128, 1280, 20, 32, 4, 51866),
}
"""mels, width, heads, encoder layers, decoder layers, vocabulary (openai/whisper model-card.md)."""


def spec_of(name: str) -> WhisperSpec:
    """The spec of a size; the ids are those of its vocabulary, the alignment heads made up."""
    mels, width, heads, encoder, decoder, vocab = SIZES[name]
    model = ModelSpec(
        mels, 1500, width, heads, encoder, 4 * width, vocab, 448, width, heads, decoder, 4 * width
    )
    languages = tuple((f"l{i}", 50259 + i) for i in range(vocab - 51766))
    after = 50259 + len(languages)
    tokens = TokenSpec(
        eot=50257,
        sot=50258,
        sot_prev=after + 3,
        no_speech=after + 4,
        no_timestamps=after + 5,
        timestamp_begin=after + 6,
        transcribe=after + 1,
        translate=after,
        languages=languages,
        suppress_tokens=(),
        begin_suppress_tokens=(220, 50257),
        max_initial_timestamp_index=50,
        alignment_heads=tuple((decoder - 1, head) for head in range(6)),
        alignment_heads_derived=True,
    )
    return WhisperSpec(model, AudioSpec(), tokens)


def measure(name: str) -> tuple[float, int]:
    """Seconds to compile every entry point, child process included, and the file's bytes."""
    with tempfile.TemporaryDirectory(prefix="mwc-bench-") as folder:
        for variable in ("MODULAR_CACHE_DIR", "MODULAR_MAX_CACHE_DIR"):
            os.environ[variable] = str(Path(folder, "cache"))
        mef = Path(folder, "whisper.mef")
        begin = time.perf_counter()
        compile_target(CompileJob(spec_of(name), "f32", parse_target("cpu"), str(mef)))
        return time.perf_counter() - begin, mef.stat().st_size


def main(names: list[str]) -> None:
    found = machine(["max", "mwc"])
    rows = {name: measure(name) for name in names}
    lines = ["# Time to compile", "", *machine_lines(found), ""]
    lines += ["| size | layers | seconds | compiled file |", "|---|---|---|---|"]
    for name, (seconds, size) in rows.items():
        _, _, _, encoder, decoder, _ = SIZES[name]
        lines.append(f"| {name} | {encoder} + {decoder} | {seconds:.1f} | {size / 1e6:.1f} MB |")
    (RESULTS / "compile-time.md").write_text("\n".join(lines) + "\n")
    (RESULTS / "compile-time.json").write_text(
        json.dumps({**found, "sizes": rows}, indent=1) + "\n"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in SIZES]
    if unknown or len(sys.argv) < 2:
        sys.exit(f"{__doc__}\nSizes: {', '.join(SIZES)}")
    main(sys.argv[1:])
