"""What `accuracy.py` found, as Markdown to read and JSON to keep."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from machine import machine_lines
from report import table
from text_parity import TextDifference
from token_parity import MARGIN, WindowTokens

from mwc.compiler.word_errors import WordErrors


@dataclass(frozen=True)
class ClipTokens:
    """One clip's tokens against transformers'.

    Attributes:
        windows: by mode, in the order of time.
        generated_equal: whether transformers' `generate` gave the same without timestamps.
    """

    windows: dict[str, tuple[WindowTokens, ...]]
    generated_equal: bool


@dataclass(frozen=True)
class AccuracyReport:
    """Everything of one run; see `accuracy.py`.

    Attributes:
        name: of the model.
        machine: from `machine.machine`.
        clips: names of all that were compared.
        languages: codes of what is spoken in them.
        tokens: by clip.
        texts: the texts that differ from openai-whisper's.
        word_errors: by mode and engine, English clips only.
    """

    name: str
    machine: dict[str, Any]
    clips: list[str]
    languages: list[str]
    tokens: dict[str, ClipTokens]
    texts: list[TextDifference]
    word_errors: dict[str, dict[str, WordErrors]]


def write_report(report: AccuracyReport, folder: Path) -> str:
    """Write folder/accuracy-<name>.md and .json; return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(markdown(report)) + "\n"
    (folder / f"accuracy-{report.name}.md").write_text(text, encoding="utf-8")
    data = json.dumps(finite(asdict(report)), indent=1, ensure_ascii=False) + "\n"
    (folder / f"accuracy-{report.name}.json").write_text(data, encoding="utf-8")
    return text


def markdown(report: AccuracyReport) -> list[str]:
    return [
        f"# {report.name}: accuracy",
        "",
        *machine_lines(report.machine),
        "",
        f"{len(report.clips)} clips; languages, each given to the engines: "
        f"{', '.join(report.languages)}.",
        "",
        *token_lines(report),
        "",
        *text_lines(report),
        "",
        *word_error_lines(report),
    ]


def token_lines(report: AccuracyReport) -> list[str]:
    """How many tokens are transformers', and each one that is not."""
    modes = list(next(iter(report.tokens.values())).windows)
    windows = {
        mode: [(n, w) for n, clip in report.tokens.items() for w in clip.windows[mode]]
        for mode in modes
    }
    rows = []
    for mode, found in windows.items():
        differing = {name for name, window in found if window.differences}
        unexplained = [d for _, w in found for d in w.differences if not d.explained]
        rows.append(
            [
                mode,
                f"{len(report.tokens) - len(differing)} of {len(report.tokens)}",
                str(sum(len(window.tokens) for _, window in found)),
                str(sum(len(window.differences) for _, window in found)),
                str(len(unexplained)),
            ]
        )
    unequal = [name for name, clip in report.tokens.items() if not clip.generated_equal]
    lines = [
        "## Tokens against transformers",
        "",
        "Every window of 30 s, without previous text. mwc's log-mel goes into transformers' "
        "encoder; its decoder gets mwc's prompt and tokens and chooses at each position.",
        "",
        *table(["", "clips equal", "tokens", "differing tokens", "unexplained"], rows),
        "",
        f"A difference is explained where transformers is within {MARGIN} logits of choosing mwc's "
        "token.",
        "",
        "transformers' own `generate`, running freely without timestamps, gives the same tokens "
        f"on {len(report.tokens) - len(unequal)} of {len(report.tokens)} clips"
        + (f"; not on {', '.join(unequal)}." if unequal else "."),
    ]
    details = [
        [name, mode, f"{w.seek / 100:.0f} s", str(d.position), code(d.ours), code(d.theirs),
         f"{d.margin:.2e}"]
        for mode, found in windows.items() for name, w in found for d in w.differences
    ]  # fmt: skip
    if details:
        head = ["clip", "mode", "window", "position", "mwc", "transformers", "margin"]
        lines += ["", *table(head, details)]
    return lines


def text_lines(report: AccuracyReport) -> list[str]:
    """How many texts are openai-whisper's, and each one that is not with its cause."""
    lines = ["## Text against openai-whisper", ""]
    rows = []
    for mode, timestamps in (("without timestamps", False), ("with timestamps", True)):
        found = [d for d in report.texts if d.timestamps == timestamps]
        causes = [str(sum(d.cause == c for d in found)) for c in ("samples", "margin")]
        rest = sum(d.cause == "unexplained" for d in found)
        equal = f"{len(report.clips) - len(found)} of {len(report.clips)}"
        rows.append([mode, equal, *causes, str(rest)])
    lines += [
        "`transcribe`, temperature 0, each engine from the file.",
        "",
        *table(["", "texts equal", "other samples", "near tie", "unexplained"], rows),
        "",
        "Other samples: the two engines' decoders give the file other samples, and openai-whisper "
        "gives mwc's text once it gets mwc's samples. Near tie: on the same samples, "
        f"openai-whisper is within {MARGIN} logits of choosing mwc's first differing token.",
    ]
    for d in report.texts:
        lines += ["", *difference_lines(d)]
    return lines


def difference_lines(d: TextDifference) -> list[str]:
    mode = "with timestamps" if d.timestamps else "without timestamps"
    if d.samples is None:
        samples = f"{d.lengths[0]} and {d.lengths[1]} samples"
    else:
        samples = f"samples differ by at most {d.samples:.1e}"
    lines = [
        f"- {d.clip}, {mode}: {d.cause} ({samples})",
        f"  - mwc: {d.ours.strip()}",
        f"  - openai-whisper: {d.theirs.strip()}",
    ]
    if d.first:
        lines.append(
            f"  - on the same samples first at token {d.first.position} of the window at "
            f"{d.first.seek / 100:.2f} s: {code(d.first.ours)} or {code(d.first.theirs)}, margin "
            f"{d.first.margin:.2e}"
        )
    return lines


def word_error_lines(report: AccuracyReport) -> list[str]:
    """Word error rates, a row per engine."""
    lines = ["## Word error rates, English clips"]
    for mode, engines in report.word_errors.items():
        words = next(iter(engines.values())).words
        rows = [
            [n, f"{100 * e.rate:.2f} %", *map(str, (e.substitutions, e.deletions, e.insertions))]
            for n, e in engines.items()
        ]
        head = ["engine", "word error rate", "substitutions", "deletions", "insertions"]
        lines += ["", f"{mode.capitalize()}, {words} reference words:", "", *table(head, rows)]
    return [
        *lines,
        "",
        "Greedy, temperature 0. References and texts are normalised by openai/whisper's English "
        "normaliser (whisper-normalizer) and aligned by jiwer; errors of all clips over words of "
        "all clips.",
    ]


def code(text: str) -> str:
    """A token in a table cell."""
    return "`" + text.replace("|", "\\|") + "`"


def finite(value: Any) -> Any:
    """The same with None in place of numbers that JSON lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(item) for item in value]
    return value
