"""Whether a file's transcript depends on what is decoded with it: every clip, in any company.

    python benchmarks/independence.py ARTIFACT…

The English clips of the corpus are decoded in batches of 3, 8 and 16, in order and shuffled. Equal
means all of it: texts, times, tokens and their log-probabilities. Results go to
benchmarks/results/independence.md.
"""

import argparse
from pathlib import Path

import numpy as np
from machine import machine, machine_lines
from speech_corpus import CORPUS, english, read_corpus

from mwc.runtime import Model, Transcript, load

RESULTS = Path(__file__).resolve().parent / "results"
BATCHES = (3, 8, 16)


def transcripts(model: Model, paths: list[Path], batch_size: int) -> dict[Path, Transcript]:
    """Each file's transcript, decoded in this company."""
    found = model.transcribe_many(paths, language="en", batch_size=batch_size)
    return dict(zip(paths, found, strict=True))


def main() -> None:
    """Compare and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifacts", nargs="+", type=Path, metavar="ARTIFACT")
    given = parser.parse_args()
    found = machine(["mwc", "max"])
    found["command"] = "python benchmarks/independence.py ARTIFACT…"
    paths = [clip.path for clip in english(read_corpus(CORPUS))]
    lines = ["# Independence of company", "", *machine_lines(found), ""]
    lines += ["| weights | files | batch | order | transcripts that differ from batches of 2 |"]
    lines += ["|---|---|---|---|---|"]
    for artifact in given.artifacts:
        model = load(artifact)
        alone = transcripts(model, paths, 2)
        for batch_size in BATCHES:
            for order in ("in order", "shuffled"):
                company = list(paths)
                if order == "shuffled":
                    np.random.default_rng(batch_size).shuffle(company)  # type: ignore[arg-type]
                together = transcripts(model, company, batch_size)
                differ = sum(together[path] != alone[path] for path in paths)
                name = f"{artifact.name}, {model.session.target.precision}"
                lines.append(f"| {name} | {len(paths)} | {batch_size} | {order} | {differ} |")
                print(lines[-1], flush=True)
    (RESULTS / "independence.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
