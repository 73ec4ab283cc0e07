"""The part of the page that says how far its transcript can be trusted."""

from collections.abc import Iterator
from html import escape

from mwc.runtime.transcript import Segment, Transcript

REPETITIVE = 0.3
"""Share of repeated word triples above which a segment's text is doubtful."""

COLUMNS = ("avg_logprob", "compression_ratio", "no_speech_prob", "temperature", "repetition")


def report(transcript: Transcript) -> str:
    """Return the section: speech without text, and what to think of each segment."""
    doubtful = sum(bool(doubts(segment)) for segment in transcript.segments)
    n_segments = len(transcript.segments)
    summary = f"{n_segments} segment{'s' * (n_segments != 1)}, {doubtful or 'none'} doubtful"
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("time", *COLUMNS))
    rows = "".join(_rows(transcript))
    return (
        f'<section id="report">\n<h2>Report</h2>\n{_coverage(transcript)}{_windows(transcript)}'
        f"<details>\n<summary>{summary}</summary>\n"
        "<p>A value is marked where openai/whisper would doubt the text: avg_logprob below -1, "
        "compression_ratio above 2.4 (repetition), no_speech_prob above 0.6; or where more than "
        "0.3 of its word triples are repeated.</p>\n"
        f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table></div>\n</details>\n</section>\n"
    )


def _coverage(transcript: Transcript) -> str:
    """How much of the detected speech has text, and where it has none."""
    coverage = transcript.coverage
    if coverage is None:
        return '<p id="coverage">Speech was not detected, so what has no text is not known.</p>\n'
    missing = coverage.uncovered_seconds
    lack = f"{missing:.1f} s of it have no text" if coverage.uncovered else "all of it has text"
    told = f"{coverage.detector} found {coverage.speech:.1f} s of speech; {lack}"
    gaps = "".join(
        f"<li>{_button(start, f'{short_clock(start)} to {short_clock(end)}')}</li>\n"
        for start, end in coverage.uncovered
    )
    listed = f'<ul id="uncovered">\n{gaps}</ul>\n' if gaps else ""
    return f'<p id="coverage">{escape(told)}.</p>\n{listed}'


def _windows(transcript: Transcript) -> str:
    """The windows that gave no text or were decoded more than once, and why."""
    rows = []
    for window in transcript.windows:
        reasons = [f"at {a.temperature:g}: {a.refused}" for a in window.attempts if a.refused]
        if window.skipped:
            reasons.append(f"no text: {window.skipped}")
        if reasons:
            time = f"{short_clock(window.start)} to {short_clock(window.end)}"
            rows.append(f"<li>{_button(window.start, time)} {escape('; '.join(reasons))}</li>\n")
    if not rows:
        return ""
    title = f"{len(rows)} of {len(transcript.windows)} windows skipped or decoded again"
    listed = "".join(rows)
    return f'<details id="windows">\n<summary>{title}</summary>\n<ul>\n{listed}</ul>\n</details>\n'


def _button(start: float, text: str) -> str:
    """What seeks to a second when clicked."""
    return f'<button type="button" class="time" data-start="{start:.3f}">{text}</button>'


def doubts(segment: Segment) -> frozenset[str]:
    """Names of the values beyond openai/whisper's default thresholds (`transcribe.py`) and ours."""
    beyond = {
        "avg_logprob": segment.avg_logprob < -1.0,
        "compression_ratio": segment.compression_ratio > 2.4,
        "no_speech_prob": segment.no_speech_prob > 0.6,
        "repetition": segment.repetition > REPETITIVE,
    }
    return frozenset(name for name, is_beyond in beyond.items() if is_beyond)


def _rows(transcript: Transcript) -> Iterator[str]:
    for segment in transcript.segments:
        doubted = doubts(segment)
        cells = "".join(
            f"<td{' class=doubtful' * (name in doubted)}>{getattr(segment, name):.2f}</td>"
            for name in COLUMNS
        )
        time = f"{short_clock(segment.start)} to {short_clock(segment.end)}"
        yield f'<tr><th scope="row">{_button(segment.start, time)}</th>{cells}</tr>\n'


def short_clock(seconds: float) -> str:
    """Seconds for people: "0:07.5", "4:05.0", "1:04:05.0"."""
    minutes, tenths = divmod(round(seconds * 10), 600)
    hours, minutes = divmod(minutes, 60)
    front = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{front}:{tenths // 10:02}.{tenths % 10}"
