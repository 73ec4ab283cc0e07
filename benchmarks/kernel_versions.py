"""Each kernel as it is beside what it was at another commit, in turns: is a change faster?

    python benchmarks/kernel_versions.py ARTIFACT --against HEAD~3
    python benchmarks/kernel_versions.py ARTIFACT --against HEAD --only 'LM head' cross --rounds 20

Two processes hold the kernels of both, compiled for the sizes and the precision of an artifact, and
are asked by turns, so that whatever else the machine is at meets both alike. The best time says
what the code can do, the median what it did. The graphs are those of the working tree: a kernel
whose inputs have changed since cannot be compared.
"""

import argparse
import io
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from ceiling import best_seconds
from kernel_cases import cases_of

from mwc.compiler.graphs.scope import KERNELS
from mwc.runtime.threads import open_cpu

ROOT = Path(__file__).resolve().parent.parent
ROWS = (1, 4, 8)
TRIES = 40
"""Runs of a kernel in one turn, of which the best counts."""


def kernels_of(commit: str, folder: Path) -> Path:
    """Write the kernels' source of a commit into a folder; the place in it.

    Raises:
        SystemExit: there is no such commit, or it has no kernels.
    """
    place = KERNELS.relative_to(ROOT)
    archive = subprocess.run(
        ["git", "archive", commit, str(place)], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        sys.exit(f"{commit} has no {place}: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder / place


def serve(artifact: Path, kernels: Path, threads: int, only: list[str]) -> None:
    """Compile, print the kernels' names, then a line of milliseconds for each line that comes."""
    open_cpu(threads)
    compiled = cases_of(artifact, ROWS, kernels=kernels, only=only)
    if not compiled:
        sys.exit(f"no kernel has any of {', '.join(only)} in its name")
    print(";".join(case.name for case in compiled), flush=True)
    for _ in sys.stdin:
        print(*(1e3 * best_seconds(case.run, TRIES)[0] for case in compiled), flush=True)


class Version:
    """A process with one version of the kernels."""

    def __init__(self, given: argparse.Namespace, kernels: Path) -> None:
        command = [sys.executable, __file__, str(given.artifact), "--serve", str(kernels)]
        command += ["--threads", str(given.threads), "--only", *given.only]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.rounds: list[list[float]] = []
        self.names = self._line().split(";")

    def time(self) -> None:
        """Run every kernel in this version."""
        given: IO[str] | None = self._process.stdin
        assert given is not None
        print(file=given, flush=True)
        self.rounds.append([float(value) for value in self._line().split()])

    def _line(self) -> str:
        """What the process says next.

        Raises:
            SystemExit: it ended, having said why.
        """
        said: IO[str] | None = self._process.stdout
        assert said is not None
        line = said.readline().strip()
        if not line:
            sys.exit("one version of the kernels could not be timed; see above")
        return line

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def show(old: Version, new: Version) -> None:
    """Print the times of both, kernel by kernel."""
    print("| kernel | before: best, median ms | now: best, median ms | now / before, best |")
    print("|---|---|---|---|")
    for i, name in enumerate(new.names):
        before, now = ([times[i] for times in version.rounds] for version in (old, new))
        cells = [f"{min(times):.4f}, {statistics.median(times):.4f}" for times in (before, now)]
        print(f"| {name} | {cells[0]} | {cells[1]} | {min(now) / min(before):.3f} |")


def main() -> None:
    """Time both by turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT")
    parser.add_argument("--against", default="HEAD", metavar="COMMIT")
    parser.add_argument(
        "--only", nargs="*", default=[], help="kernels with one of these in the name"
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.artifact, given.serve, given.threads, given.only)
        return
    with tempfile.TemporaryDirectory() as folder:
        versions = [
            Version(given, kernels)
            for kernels in (kernels_of(given.against, Path(folder)), KERNELS)
        ]
        for _ in range(given.rounds):
            for version in versions:
                version.time()
        for version in versions:
            version.close()
    show(*versions)


if __name__ == "__main__":
    main()
