"""The part of the page that says how far its transcript can be trusted."""

from collections.abc import Iterator

from mwc.runtime.transcript import Segment, Transcript

COLUMNS = ("avg_logprob", "compression_ratio", "no_speech_prob", "temperature")


def report(transcript: Transcript) -> str:
    """Return the section: what openai/whisper's thresholds make of each segment."""
    doubtful = sum(bool(doubts(segment)) for segment in transcript.segments)
    n_segments = len(transcript.segments)
    summary = f"{n_segments} segment{'s' * (n_segments != 1)}, {doubtful or 'none'} doubtful"
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("time", *COLUMNS))
    rows = "".join(_rows(transcript))
    return (
        '<section id="report">\n<h2>Report</h2>\n'
        f"<details>\n<summary>{summary}</summary>\n"
        "<p>A value is marked where openai/whisper would doubt the text: avg_logprob below -1, "
        "compression_ratio above 2.4 (repetition), no_speech_prob above 0.6.</p>\n"
        f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table></div>\n</details>\n</section>\n"
    )


def doubts(segment: Segment) -> frozenset[str]:
    """Names of the values beyond openai/whisper's default thresholds (`transcribe.py`)."""
    beyond = {
        "avg_logprob": segment.avg_logprob < -1.0,
        "compression_ratio": segment.compression_ratio > 2.4,
        "no_speech_prob": segment.no_speech_prob > 0.6,
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
        button = (
            f'<button type="button" class="time" data-start="{segment.start:.3f}">{time}</button>'
        )
        yield f'<tr><th scope="row">{button}</th>{cells}</tr>\n'


def short_clock(seconds: float) -> str:
    """Seconds for people: "0:07.5", "4:05.0", "1:04:05.0"."""
    minutes, tenths = divmod(round(seconds * 10), 600)
    hours, minutes = divmod(minutes, 60)
    front = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{front}:{tenths // 10:02}.{tenths % 10}"
