"""What a user waits for before anything is transcribed: importing, starting, converting."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

IMPORT = """
import time
begin = time.perf_counter()
import mwc.runtime
print(time.perf_counter() - begin)
"""


@dataclass(frozen=True)
class ConvertTimes:
    """Seconds that `mwc convert` takes, from start to exit.

    Attributes:
        source: what was converted.
        cold: with empty caches.
        warm: the same command once more, with the caches that the first left.
        warm_unverified: a third time, with --no-verify.
        cache_mib: what the first left in the caches.
    """

    source: str
    cold: float
    warm: float
    warm_unverified: float
    cache_mib: float


def import_seconds() -> float:
    """Import mwc.runtime in a fresh process."""
    line = [sys.executable, "-c", IMPORT]
    return float(subprocess.run(line, capture_output=True, text=True, check=True).stdout)


def command_seconds(
    artifact: Path, audio: Path, threads: int, language: str
) -> tuple[float, float]:
    """Run `mwc run` on an audio file: seconds to the first byte on stdout, and to its exit."""
    line = [sys.executable, "-m", "mwc.cli.main", "run", str(artifact), str(audio)]
    line += ["--threads", str(threads), "--language", language, "--quiet"]
    begin = time.monotonic()
    with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        heard = process.stdout.read(1)
        first = time.monotonic()
        process.stdout.read()
    end = time.monotonic()
    if process.returncode or not heard:
        raise SystemExit(f"failed or said nothing: {' '.join(line)}")
    return first - begin, end - begin


def convert_seconds(source: str) -> ConvertTimes:
    """Convert into a fresh folder again and again, with caches of our own that are empty at first.

    MAX keeps compiled models under MODULAR_MAX_CACHE_DIR, everything else under MODULAR_CACHE_DIR,
    and precompiled kernels among the temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="mwc-bench-") as name:
        folder = Path(name)
        caches = folder / "caches"
        places = {
            "MODULAR_MAX_CACHE_DIR": caches / "max",
            "MODULAR_CACHE_DIR": caches / "modular",
            "XDG_CACHE_HOME": caches / "home",
            "TMPDIR": caches / "tmp",
        }
        for place in places.values():
            place.mkdir(parents=True)
        variables = {name: str(place) for name, place in places.items()}
        cold = _convert(source, folder / "cold", variables)
        size = sum(file.stat().st_size for file in caches.rglob("*") if file.is_file())
        warm = _convert(source, folder / "warm", variables)
        unverified = _convert(source, folder / "unverified", variables, "--no-verify")
    return ConvertTimes(source, cold, warm, unverified, size / 2**20)


def _convert(source: str, out: Path, variables: dict[str, str], *options: str) -> float:
    line = [sys.executable, "-m", "mwc.cli.main", "convert", source, str(out), *options]
    begin = time.monotonic()
    done = subprocess.run(
        line, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(line)}\n{done.stderr}")
    return time.monotonic() - begin
