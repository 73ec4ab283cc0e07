"""What `faithfulness.py` found, as Markdown to read and JSON to keep."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accuracy_report import code, finite
from machine import machine_lines
from report import table
from segment_parity import CAUSES, CLOSE, SegmentDifference, SegmentParity
from token_parity import MARGIN
from word_parity import SAME, WordPlaces, WordTimes

from mwc.compiler.word_errors import WordErrors


@dataclass(frozen=True)
class Detected:
    """Which language each engine hears in a clip, and its probability."""

    clip: str
    language: str
    ours: str
    our_probability: float
    theirs: str
    their_probability: float


@dataclass(frozen=True)
class ModeReport:
    """Everything about one mode of mwc; what its runs do not tell is empty or None.

    Attributes:
        segments: by run, beside openai/whisper's.
        beam_errors: by group of clips and engine, with 5 beams.
        word_times: beside openai/whisper's.
        word_places: by engine, in the recording put together from clips.
        language_errors: by language and engine, greedy.
        silence: by clip without speech, and by engine and run, how many words there are.
    """

    segments: dict[str, SegmentParity]
    beam_errors: dict[str, dict[str, WordErrors]]
    word_times: WordTimes | None
    word_places: dict[str, WordPlaces]
    language_errors: dict[str, dict[str, WordErrors]]
    silence: dict[str, dict[str, int]]


@dataclass(frozen=True)
class FaithfulnessReport:
    """Everything of one run; see `faithfulness.py`.

    Attributes:
        name: of the model.
        machine: from `machine.machine`.
        clips: names of all that were compared.
        seconds: how long they are together.
        modes: by the name of mwc's mode.
        detected: of the clips in other languages.
    """

    name: str
    machine: dict[str, Any]
    clips: list[str]
    seconds: float
    modes: dict[str, ModeReport]
    detected: list[Detected]


def write_report(report: FaithfulnessReport, folder: Path) -> str:
    """Write folder/faithfulness-<name>.md and .json; return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(markdown(report)) + "\n"
    (folder / f"faithfulness-{report.name}.md").write_text(text, encoding="utf-8")
    stored = finite(asdict(report))
    for mode in stored["modes"].values():
        if mode["word_times"]:  # thousands of pairs: what is told of them is in the Markdown
            mode["word_times"]["differences"] = len(mode["word_times"]["differences"])
    data = json.dumps(stored, indent=1, ensure_ascii=False) + "\n"
    (folder / f"faithfulness-{report.name}.json").write_text(data, encoding="utf-8")
    return text


def markdown(report: FaithfulnessReport) -> list[str]:
    lines = [
        f"# {report.name}: beside openai/whisper",
        "",
        *machine_lines(report.machine),
        "",
        f"{len(report.clips)} recordings, {report.seconds:.0f} s; all engines get the samples that "
        "mwc decodes, float32 weights, and the language.",
    ]
    for name, mode in report.modes.items():
        sections = (
            segment_lines(mode), beam_lines(mode), word_lines(mode), language_lines(mode),
            silence_lines(mode),
        )  # fmt: skip
        lines += ["", f"## {name.capitalize()}"]
        for section in sections:
            lines += ["", *section] if section else []
    return lines + (["", *detected_lines(report.detected)] if report.detected else [])


def segment_lines(mode: ModeReport) -> list[str]:
    """How many segments are openai/whisper's, and each recording in which one is not."""
    rows = []
    for run, found in mode.segments.items():
        causes = [str(sum(d.cause == cause for d in found.differences)) for cause in CAUSES]
        same = f"{found.clips - len(found.differences)} of {found.clips}"
        share = f"{100 * found.share:.2f} %"
        rows.append([run, str(found.theirs), str(found.ours), share, same, *causes])
    if not rows:
        return []
    head = ["", "openai/whisper", "mwc", "equal", "recordings equal", *CAUSES]
    lines = [
        "### Segments",
        "",
        *table(head, rows),
        "",
        "Equal: the same text, start and end (to 10 ms). What follows a difference in a recording "
        "counts too: each window has the text before it as its prompt. Margin: openai/whisper is "
        f"within {MARGIN} logits of choosing mwc's first differing token; with beams, the two "
        f"transcripts have avg_logprobs less than {CLOSE} apart. Sampled: the first difference is "
        "in a window above temperature 0, whose random numbers are each engine's own.",
    ]
    for run, found in mode.segments.items():
        for difference in found.differences:
            lines += ["", *difference_lines(run, difference)]
    return lines


def difference_lines(run: str, d: SegmentDifference) -> list[str]:
    lines = [
        f"- {d.clip}, {run}: {d.equal} of {d.theirs} equal ({d.ours} of mwc), {d.cause}, first in "
        f"the window at {d.seek / 100:.2f} s",
        f"  - mwc: {d.texts[0].strip()}",
        f"  - openai/whisper: {d.texts[1].strip()}",
    ]
    if None not in d.avg_logprobs:
        ours, theirs = d.avg_logprobs
        lines.append(f"  - avg_logprob {ours:.7f} and {theirs:.7f}")
    if d.first:
        lines.append(
            f"  - first at token {d.first.position} of the window at {d.first.seek / 100:.2f} s: "
            f"{code(d.first.ours)} or {code(d.first.theirs)}, margin {d.first.margin:.2e}"
        )
    return lines


def beam_lines(mode: ModeReport) -> list[str]:
    """Word error rates with 5 beams."""
    if not mode.beam_errors:
        return []
    lines = ["### Beam search, 5 beams"]
    for group, engines in mode.beam_errors.items():
        words = next(iter(engines.values())).words
        rows = [[name, *error_cells(errors)] for name, errors in engines.items()]
        head = ["engine", "word error rate", "substitutions", "deletions", "insertions"]
        lines += ["", f"{group}, {words} reference words:", "", *table(head, rows)]
    return lines


def error_cells(errors: WordErrors) -> list[str]:
    counts = (errors.substitutions, errors.deletions, errors.insertions)
    return [f"{100 * errors.rate:.2f} %", *map(str, counts)]


def word_lines(mode: ModeReport) -> list[str]:
    """How far word times are apart, and which words lie outside their clip."""
    times = mode.word_times
    if times is None:
        return []
    matched = len(times.differences)
    different = sum(max(pair) > SAME for pair in times.differences)
    same = f"{100 * (1 - different / matched):.2f} %"
    largest = max(max(pair) for pair in times.differences)
    lines = [
        "### Words",
        "",
        f"{matched} of openai/whisper's {times.theirs} words and mwc's {times.ours} match in order "
        f"by their text. {same} have the same start and end; absolute "
        f"difference of starts and ends: median {1000 * times.median():.0f} ms, 95th percentile "
        f"{1000 * times.percentile(95):.0f} ms, largest {1000 * largest:.0f} ms. Of the "
        f"{different} that differ, {times.cut} do so because mwc cuts a first or last word to its "
        "segment where openai/whisper lets it pass; of the others most lie beside a pause, for "
        "mwc keeps words to detected speech.",
    ]
    rows = [
        [name, str(p.words), str(p.placed), *(f"{100 * n / p.placed:.2f} %"
                                              for n in (p.inside, p.middle))]
        for name, p in mode.word_places.items()
    ]  # fmt: skip
    if rows:
        head = ["engine", "words", "of a known clip", "wholly inside it", "by their middle"]
        lines += ["", "In the recording put together from clips:", "", *table(head, rows)]
    return lines


def language_lines(mode: ModeReport) -> list[str]:
    """Error rates by language."""
    if not mode.language_errors:
        return []
    rows = [
        [language, str(next(iter(engines.values())).words),
         *(f"{100 * errors.rate:.2f} %" for errors in engines.values())]
        for language, engines in mode.language_errors.items()
    ]  # fmt: skip
    names = list(next(iter(mode.language_errors.values())))
    head = ["language", "reference words", *names]
    return [
        "### Errors by language",
        "",
        *table(head, rows),
        "",
        "Greedy; words, in Japanese characters. Texts are normalised by whisper-normalizer and "
        "aligned by jiwer.",
    ]


def silence_lines(mode: ModeReport) -> list[str]:
    """Words where nobody speaks."""
    if not mode.silence:
        return []
    names = list(next(iter(mode.silence.values())))
    rows = [[clip, *(str(found[name]) for name in names)] for clip, found in mode.silence.items()]
    return ["### Words where nobody speaks", "", *table(["recording", *names], rows)]


def detected_lines(detected: list[Detected]) -> list[str]:
    """Languages detected, and clips on which the engines do not agree."""
    right = [d for d in detected if d.theirs == d.language]
    same = sum(d.ours == d.language for d in right)
    farthest = max(abs(d.our_probability - d.their_probability) for d in detected)
    lines = [
        "## Language detection",
        "",
        f"openai/whisper hears the right language in {len(right)} of {len(detected)} clips, mwc in "
        f"{same} of these; their probabilities of it differ by at most {farthest:.1e}.",
    ]
    wrong = [d for d in detected if d.ours != d.theirs or d.theirs != d.language]
    for d in wrong:
        lines += ["", f"- {d.clip} ({d.language}): mwc {d.ours}, openai/whisper {d.theirs}"]
    return lines
