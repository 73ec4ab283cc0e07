"""Whether a right float32 model is refused: the verification of a conversion, on many clips.

    python benchmarks/refusals.py ARTIFACT CHECKPOINT --name tiny.en

English clips of the corpus, each repeated to 30 s as the built-in one is. Beyond its bound is a
clip of which a stage is, at whatever positions; compiler/rounding.py has what lies between that and
one that is refused. Results go to benchmarks/results/refusals-NAME.md.
"""

import argparse
from pathlib import Path

import numpy as np
from machine import machine, machine_lines
from speech_corpus import add_corpus, english, read_corpus, spread

from mwc.compiler.checkpoint import open_checkpoint
from mwc.compiler.config import read_spec
from mwc.compiler.parity import ParityReport
from mwc.compiler.reference import open_reference
from mwc.compiler.verify import verify
from mwc.runtime.artifact import open_artifact
from mwc.runtime.audio import read_samples
from mwc.runtime.session import Session

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("max", "mwc", "numpy", "torch", "transformers")


def row(name: str, report: ParityReport) -> str:
    """What is told of a clip."""
    worst = max(report.stages, key=lambda stage: stage.max_rel / stage.bound)
    most = max(stage.open_positions for stage in report.stages)
    tokens = f"{report.tokens_equal} of {report.tokens_compared}"
    verdict = "" if report.ok else "refused"
    return f"| {name} | {worst.name} | {worst.max_rel:.1e} | {most} | {tokens} | {verdict} |"


def is_beyond(report: ParityReport) -> bool:
    """Whether a stage is beyond its bound anywhere."""
    return any(stage.max_rel > stage.bound for stage in report.stages)


def told(reports: dict[str, ParityReport]) -> list[str]:
    """The counts, then a row for each clip that is beyond its bound."""
    found = reports.values()
    equal, compared = (
        sum(getattr(report, name) for report in found)
        for name in ("tokens_equal", "tokens_compared")
    )
    beyond = {name: report for name, report in reports.items() if is_beyond(report)}
    refused = sum(not report.ok for report in found)
    return [
        f"{len(reports)} clips: {len(beyond)} with a stage beyond its bound, {refused} refused; "
        f"{equal} of {compared} tokens equal.",
        "",
        "| clip | worst stage | relative error | positions left open, at most | tokens equal | |",
        "|---|---|---|---|---|---|",
        *(row(name, report) for name, report in beyond.items()),
    ]


def main() -> None:
    """Verify on every clip and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("checkpoint")
    parser.add_argument("--name", required=True, help="of benchmarks/results/refusals-NAME.md")
    parser.add_argument("--count", type=int, help="so many clips, evenly chosen; else all")
    add_corpus(parser)
    given = parser.parse_args()
    clips = english(read_corpus(given.corpus))
    clips = clips if given.count is None else spread(clips, given.count)
    where = machine(PACKAGES)
    session = Session(open_artifact(given.artifact), device="cpu")
    checkpoint = open_checkpoint(given.checkpoint)
    spec, _ = read_spec(checkpoint)
    reference = open_reference(checkpoint, spec)
    reports = {}
    for clip in clips:
        samples = np.resize(read_samples(clip.path), spec.audio.n_samples)
        reports[clip.name] = verify(session, reference, spec, samples, session.target.precision)
        print(row(clip.name, reports[clip.name]), flush=True)
    lines = [f"# {given.name}: what verification says of a right model", ""]
    lines += [*machine_lines(where), "", *told(reports)]
    (RESULTS / f"refusals-{given.name}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
