"""The page in a browser: what lights up, what a click does, what it asks of the network."""

import json
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Tab, find_browser, open_tab
from said import segment, spoken, transcript

from mwc.runtime.transcript import Transcript
from mwc.runtime.writers import WriteOptions, audio_url, write_file

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on the PATH, and MWC_TEST_BROWSER names none"
)

SAID = transcript(
    segment(0, " one two three", 0.0, 1.4, spoken(" one", " two", " three")),
    segment(1, " four </script> five", 1.5, 2.9, spoken(" four", " </script>", " five", start=1.5)),
    segment(2, " שלום עולם!", 3.0, 3.9, spoken(" שלום", " עולם!", start=3.0)),
)
LIT = "[...document.querySelectorAll('.lit')].map(e => e.textContent)"
RECORD = """
lit = [];
new MutationObserver(changes => changes.forEach(({target}) =>
  target.classList.contains("lit") && lit.push([target.textContent, audio.currentTime])
)).observe(document.querySelector("main"), {subtree: true, attributeFilter: ["class"]})
"""
"""Notes each word that lights up, with the audio's time."""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    assert BROWSER is not None
    with open_tab(BROWSER, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Four seconds of silence under a name that a URL cannot hold as it is."""
    path = tmp_path / "100% größe #1?.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 8000 * 4))
    return path


def page(audio: Path, said: Transcript = SAID, *, embed_bytes: int = 1 << 20) -> Path:
    """Write the page of an audio into a folder beside it."""
    path = audio.parent / "pages" / "talk.html"
    path.parent.mkdir(exist_ok=True)
    url = audio_url(audio, path.parent, embed_bytes=embed_bytes)
    write_file(path, "html", said, WriteOptions(audio=url, title="<b>Talk</b>"))
    return path


def word(text: str) -> str:
    """The JavaScript expression of a word on the page."""
    return f"[...document.querySelectorAll('.word')].find(e => e.textContent === '{text}')"


@pytest.mark.parametrize("embed_bytes", [1 << 20, 0], ids=["embedded", "linked"])
def test_words_light_up_as_the_audio_plays(tab: Tab, audio: Path, embed_bytes: int) -> None:
    tab.open(page(audio, embed_bytes=embed_bytes))
    tab.until("audio.readyState > 0")
    assert tab.value("audio.duration") == 4
    assert tab.value("audio.src.slice(0, 5)") == ("data:" if embed_bytes else "file:")
    tab.value(RECORD)
    tab.press(" ")
    tab.until("audio.ended")
    lit = tab.value("lit")
    spans = [(w.word.strip(), w.start, w.end) for s in SAID.segments for w in s.words or ()]
    assert all(any(text == t and a <= time < b for t, a, b in spans) for text, time in lit)
    order = [text for text, _ in lit]
    assert order
    assert order == [text for text, _, _ in spans if text in order]  # a busy machine skips some
    assert not tab.complaints
    assert {url.split(":")[0] for url in tab.requests} <= {"file", "data"}


def test_the_word_at_the_time_lights_up(tab: Tab, audio: Path) -> None:
    tab.open(page(audio))
    tab.until("audio.readyState > 0")
    for said in (w for s in SAID.segments for w in s.words or ()):
        tab.value(f"audio.currentTime = {(said.start + said.end) / 2}")
        tab.until(f"{LIT}.length === 1 && {LIT}[0] === {json.dumps(said.word.strip())}")


def test_a_click_seeks(tab: Tab, audio: Path) -> None:
    tab.open(page(audio))
    tab.until("audio.readyState > 0")
    tab.value("audio.playbackRate = 0.1")  # the word lasts four seconds
    tab.click(word("five"))
    tab.until(f"!audio.paused && {LIT}[0] === 'five'")
    tab.value("audio.pause()")
    assert 2.5 <= tab.value("audio.currentTime") < 2.9 + 0.1
    tab.click("document.querySelectorAll('.segment .time')[2]")
    tab.until(f"{LIT}[0] === 'שלום'")
    tab.value("audio.pause()")
    tab.value("document.querySelector('details').open = true")
    tab.click("document.querySelectorAll('tbody .time')[1]")
    tab.until(f"{LIT}[0] === 'four'")
    assert tab.value("document.querySelectorAll('[aria-current]').length") == 1


def test_keys(tab: Tab, audio: Path) -> None:
    tab.open(page(audio))
    tab.until("audio.readyState > 0")
    tab.press("ArrowRight")
    tab.until("audio.currentTime === 4")
    tab.press("ArrowLeft")
    tab.until(f"audio.currentTime === 0 && {LIT}[0] === 'one'")
    tab.press(" ")
    tab.until("!audio.paused")
    tab.press(" ")
    tab.until("audio.paused")


def test_doubtful_words_are_shaded_until_told_otherwise(tab: Tab, audio: Path) -> None:
    tab.open(page(audio))
    look = "(e => (s => [s.backgroundColor, s.textDecorationStyle])(getComputedStyle(e)))"
    sure, doubted = f"{look}({word('one')})", f"{look}({word('three')})"
    assert tab.value(sure)[0] == "rgba(0, 0, 0, 0)"
    assert tab.value(doubted) != tab.value(sure)
    tab.click("document.getElementById('shade')")
    assert tab.value(doubted) == tab.value(sure)


def test_each_script_runs_in_its_direction(tab: Tab, audio: Path) -> None:
    tab.open(page(audio))
    left = "{}.getBoundingClientRect().x".format
    assert tab.value(left(word("one"))) < tab.value(left(word("two")))
    assert tab.value(left(word("שלום"))) > tab.value(left(word("עולם!")))
    assert tab.value("document.querySelector('h1').textContent") == "<b>Talk</b>"
    assert tab.value("document.querySelector('main p').textContent") == "one two three"
    assert tab.value("document.querySelectorAll('.segment').length") == 3


def test_segments_light_up_where_there_are_no_words(tab: Tab, audio: Path) -> None:
    bare = tuple(replace(segment, words=None) for segment in SAID.segments)
    tab.open(page(audio, replace(SAID, segments=bare)))
    tab.until("audio.readyState > 0")
    tab.value("audio.currentTime = 2")
    tab.until(f"{LIT}[0] === 'four </script> five'")


def test_audio_that_cannot_be_played_is_told(tab: Tab, audio: Path) -> None:
    audio.write_bytes(b"no audio at all")
    tab.open(page(audio))
    tab.until("!trouble.hidden")


def test_a_page_without_audio(tab: Tab, tmp_path: Path) -> None:
    path = tmp_path / "talk.html"
    write_file(path, "html", SAID)
    tab.open(path)
    tab.click(word("one"))
    assert tab.value("document.getElementById('audio')") is None
    assert not tab.complaints
    assert [url for url in tab.requests if not url.startswith("data:")] == [path.as_uri()]
