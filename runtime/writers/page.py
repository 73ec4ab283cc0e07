"""The page: a transcript to read while the audio plays, in one HTML file.

The file holds its style, its script and, unless it is long, the audio; it asks no network for
anything, and its content security policy lets it run no script but its own.
"""

import base64
import hashlib
import math
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TextIO

from mwc.runtime.errors import readable
from mwc.runtime.languages import NAME_OF_LANGUAGE
from mwc.runtime.transcript import Segment, Transcript, Word
from mwc.runtime.writers.options import WriteOptions, require_words
from mwc.runtime.writers.page_report import report, short_clock

DOUBTS = (0.9, 0.75, 0.5, 0.25)
"""Probabilities below which a word is shaded, each darker than the one before."""

_CONTROLS = """\
<p class="controls">
<label><input type="checkbox" id="shade" checked> Shade by confidence</label>
<label><input type="checkbox" id="follow" checked> Scroll along</label>
</p>
"""
_TROUBLE = (
    '<p id="trouble" role="alert" hidden>This browser cannot play the audio: it is in a format '
    "that the browser does not know, or no longer where the page expects it.</p>\n"
)
_SILENT = '<p class="none">No audio comes with this page.</p>\n'


def write_html(transcript: Transcript, file: TextIO, options: WriteOptions) -> None:
    """Write the page; words light up where the transcript has their times, else whole segments."""
    require_words(transcript, options)
    style, script = (_part(name) for name in ("page.css", "page.js"))
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"media-src 'self' file: data:; style-src {_hash(style)}; script-src {_hash(script)}"
    )
    title = escape(readable(options.title))
    language = escape(options.text_language or transcript.language)
    kind = "silent" if options.audio is None else "playable"
    file.write(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n"
        f'<body class="{kind}">\n'
        f'<header>\n<h1 dir="auto">{title}</h1>\n<p class="facts">{_facts(transcript)}</p>\n'
    )
    if options.audio is None:
        file.write(_SILENT)
    else:
        source = escape(options.audio)
        file.write(f'<audio id="audio" controls preload="metadata" src="{source}"></audio>\n')
        file.write(_TROUBLE)
    file.write(f'{_CONTROLS}</header>\n<main lang="{language}">\n')
    file.writelines(_segment(segment) for segment in transcript.segments if segment.text.strip())
    file.write(f"</main>\n{report(transcript)}<script>{script}</script>\n</body>\n</html>\n")


def _facts(transcript: Transcript) -> str:
    """What the heading says: "German (97 %) · 1:04:05"."""
    language = NAME_OF_LANGUAGE.get(transcript.language, transcript.language).title()
    if transcript.language_probability is not None:
        language += f" ({_percent(transcript.language_probability)})"
    return escape(f"{language} · {short_clock(transcript.duration)}")


def _segment(segment: Segment) -> str:
    start, end = _times(segment)
    if segment.words:
        text = "".join(_words(segment.words))
    else:
        confidence = math.exp(min(segment.avg_logprob, 0.0))
        text = _unit(segment.text.strip(), start, end, confidence)
    return (
        f'<div class="segment" data-start="{start:.3f}" data-end="{end:.3f}">\n'
        f'<button type="button" class="time" data-start="{start:.3f}">{short_clock(start)}'
        f'</button>\n<p dir="auto">{text}</p>\n</div>\n'
    )


def _times(segment: Segment) -> tuple[float, float]:
    """A segment's start and end, or its words' where these reach beyond it."""
    words = segment.words or ()
    return (
        min([segment.start, *(word.start for word in words)]),
        max([segment.end, *(word.end for word in words)]),
    )


def _words(words: tuple[Word, ...]) -> Iterator[str]:
    """Each word; the spaces around it stay outside of what is lit, the first one's fall away."""
    for i, word in enumerate(words):
        before = " " if i and word.word[:1].isspace() else ""
        after = " " if word.word.strip() and word.word[-1:].isspace() else ""
        unit = _unit(word.word.strip(), word.start, word.end, word.probability)
        yield f"{before}{unit}{after}"


def _unit(text: str, start: float, end: float, probability: float) -> str:
    """What lights up at once and is shaded by how sure the model was of it."""
    doubt = sum(probability < bound for bound in DOUBTS)
    shade = f' data-doubt="{doubt}"' if doubt else ""
    return (
        f'<span class="word" data-start="{start:.3f}" data-end="{end:.3f}"{shade} '
        f'title="{_percent(probability)}">{escape(text)}</span>'
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A content security policy's name of an inline style or script."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
