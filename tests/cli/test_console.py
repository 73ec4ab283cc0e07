"""Progress and words on stderr."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from mwc.cli.console import (
    Display,
    format_amount,
    format_clock,
    format_coverage,
    format_speed,
)
from mwc.runtime.progress import ProgressEvent
from mwc.runtime.report import Coverage


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (ProgressEvent("w", 12e6, 75.5e6, "bytes"), "12.0/75.5 MB"),
        (ProgressEvent("w", 12e6, None, "bytes"), "12.0 MB"),
        (ProgressEvent("t", 70, 1106, "seconds"), "1:10/18:26"),
        (ProgressEvent("t", 70.9, None, "seconds"), "1:10"),
        (ProgressEvent("c", 3, 9, "graphs"), "3/9 graphs"),
        (ProgressEvent("c", 3, None, "stages"), "3 stages"),
    ],
)
def test_amounts(event: ProgressEvent, text: str) -> None:
    assert format_amount(event) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (3600, "1:00:00"), (11045, "3:04:05")]
)
def test_clock(seconds: float, text: str) -> None:
    assert format_clock(seconds) == text


def test_speed() -> None:
    assert format_speed(10, 0.5) == "10.0 s of audio in 0.50 s, 20.0 times real time"


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Make the display believe that stderr is a terminal, and return what it writes there."""
    screen = io.StringIO()
    monkeypatch.setattr(
        "mwc.cli.console.Console",
        lambda stderr: Console(file=screen, force_terminal=True, width=100),
    )
    return screen


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with Display() as display:
        display(ProgressEvent("weights [x]", 1e6, 2e6, "bytes"))
        with display.aside():
            assert "weights [x]" in screen.getvalue()
            assert "1.0/2.0 MB" in screen.getvalue()


def lines_left(written: str) -> list[str]:
    """What a terminal shows after all this was written to it, trailing blanks and colours aside."""
    screen, row, column = [""], 0, 0
    for code, kind, char in re.findall(r"\x1b\[([0-9;?]*)([a-zA-Z])|([^\x1b])", written):
        if kind == "A":
            row = max(0, row - int(code or 1))
        elif kind == "K":
            screen[row] = ""
        elif char == "\r":
            column = 0
        elif char == "\n":
            row, column = row + 1, 0
            screen += [""] * (row + 1 - len(screen))
        elif char:
            screen[row] = screen[row][:column].ljust(column) + char + screen[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in screen if line.strip()]


def test_bars_leave_what_is_printed_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with Display() as display:
        display(ProgressEvent("read audio", 8, 8, "seconds"))
        display(ProgressEvent("transcribe", 4, 8, "seconds"))
        for line in ("one", "two", "three"):
            with display.aside():
                screen.write(f"{line}\n")
    assert lines_left(screen.getvalue()) == ["one", "two", "three"]


def test_parts_of_one_work_share_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with Display() as display:
        display(ProgressEvent("compile cpu-host", 4, None, "seconds"))
        display(ProgressEvent("verify log-mel", 1, 5, "stages"))
        display(ProgressEvent("verify encoder", 2, 5, "stages"))
        screen.truncate(0)
        with display.aside():
            shown = screen.getvalue()
    assert "compile cpu-host" in shown
    assert "verify encoder" in shown
    assert "log-mel" not in shown


def test_a_new_file_starts_a_new_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with Display() as display:
        display(ProgressEvent("read audio", 4, 4, "seconds"))
        display(ProgressEvent("transcribe", 4, 4, "seconds"))
        display.clear()
        display(ProgressEvent("transcribe", 1, 8, "seconds"))
        screen.truncate(0)
        with display.aside():
            shown = screen.getvalue()
    assert "0:01/0:08" in shown
    assert "0:04/0:04" not in shown


@pytest.mark.parametrize("quiet", [False, True])
def test_no_bars_without_a_terminal(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with Display(quiet=quiet) as display:
        display(ProgressEvent("weights", 1, 2, "bytes"))
        display.note("a note")
        display.warn("a warning")
    expected = "" if quiet else "mwc: a note\n"
    assert capsys.readouterr() == ("", f"{expected}mwc: a warning\n")


def test_quiet_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with Display(quiet=True) as display:
        display(ProgressEvent("weights", 1, 2, "bytes"))
    assert screen.getvalue() == ""


def test_coverage_for_people() -> None:
    found = Coverage("silero-vad 6.2", 384.02, ())
    assert format_coverage(found) == "384.0 s of speech (silero-vad 6.2), all of it with text"
    assert format_coverage(replace(found, speech=0.0)) == "no speech detected (silero-vad 6.2)"
    gaps = ((1.0, 3.0), (64.2, 65.0), (70.0, 71.0), (80.0, 80.5), (90.0, 91.5), (100.0, 100.3))
    assert format_coverage(replace(found, uncovered=gaps)) == (
        "384.0 s of speech (silero-vad 6.2), 6.1 s of it without text: 0:01 to 0:03, "
        "1:04 to 1:05, 1:10 to 1:11, 1:20 to 1:21, 1:30 to 1:32 and 1 shorter ones"
    )
